"""What the gateway's choice of an engine does to first tokens: `python benchmarks/gateway_routes.py paced|MODEL.gguf RESULT.jsonl`.

The gateway's own pool chooses by what is in flight alone, by work, and by work less what is probably cached: the three in turns, each
on the same requests. Two loads: short prompts with few long ones between them, and conversations whose every turn sends all that was
said before. The engines: processes of one thread each with a model of a file; or `paced`, the engine as it is around a model that only
waits as long as a step would take, so that engines do not share a CPU. Writes a JSON line a run, times in ms as
[count, median, 95th percentile].
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import served

from headway_engine.core.batch import Batch
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel, ModelFacts
from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_gateway import engine as engine_module
from headway_gateway import prefixes
from headway_gateway.engines import Engines
from headway_rpc import pb

FIRST_PORT = 53_100
RULES = {"in flight": (float("inf"), 0), "work": (200.0, 0), "work and cache": (200.0, prefixes.MOST_PIECES)}
STEP_S, TOKEN_S, SEQUENCE_S = 0.015, 0.0002, 0.0002  # of a paced step, one of its prompt tokens, one of its decodes
SAID = (
    "the engine serves many requests at once and a long prompt makes short ones wait for their first token while its own"
    " tokens are computed so a gateway should know how much work is in front of a request before it sends it anywhere"
)
WORDS = tuple(SAID.split())


@dataclass(frozen=True)
class Load:
    """Traffic; rates are a second, lengths in words, which are about as many tokens (5.5 bytes).

    Attributes:
        seconds: of arrivals.
        engines: how many.
        short: rate, least and greatest length.
        long: the same.
        talks: rate of new conversations, words of their beginning, words of a turn, turns.
        answer: tokens.
    """

    seconds: float
    engines: int
    short: tuple[float, int, int]
    long: tuple[float, int, int]
    talks: tuple[float, int, int, int]
    answer: int


PACED = Load(20.0, 4, (8.0, 40, 260), (0.8, 3000, 9000), (1.0, 1100, 75, 8), 40)
REAL = Load(18.0, 3, (2.0, 15, 45), (0.2, 1200, 1800), (0.35, 300, 40, 6), 16)


class Quarters:
    """A tokenizer: four bytes are a token."""

    vocab_size = 1 << 16
    eos_token_ids = ()
    chat_template = ""
    words_apart = False

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        found = [text.encode() for text in texts]
        return [[hash(one[at : at + 4]) % self.vocab_size for at in range(0, len(one), 4)] for one in found]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """As many words; what they are does not matter."""
        del skip_special_tokens
        return " aaa" * len(ids)

    def serialized(self) -> str:
        """Nobody asks for a form."""
        return ""


class Paced:
    """An executor that waits."""

    num_blocks, block_size = 4000, 16

    def begin(self) -> None:
        """Nothing to load."""

    def run(self, batch: Batch) -> tuple[int, ...]:
        """A token for each."""
        sizes = [len(chunk.token_ids) for chunk in batch.chunks]
        time.sleep(STEP_S + sum(SEQUENCE_S if size == 1 else size * TOKEN_S for size in sizes))
        return tuple(65 for chunk in batch.chunks if chunk.sample)


def words(rng: random.Random, count: int) -> str:
    """So many."""
    return " ".join(rng.choices(WORDS, k=count))


@dataclass
class Run:
    """One run: its gateways' pools, and the times to first token that its clients saw."""

    load: Load
    pools: list[Engines]
    salt: str  # nothing is shared with other runs
    rng: random.Random
    seen_s: dict[str, list[float]]

    async def ask(self, kind: str, prompt: str) -> str:
        """The text of an answer."""
        params = pb.SamplingParams(max_tokens=self.load.answer, temperature=0.0, ignore_eos=True)
        request = pb.GenerateRequest(text=prompt, sampling_params=params, cache_salt=self.salt)
        begun_s, first_s, text = time.perf_counter(), 0.0, ""
        async for message in self.rng.choice(self.pools).generate(request, 120.0):
            first_s = first_s or time.perf_counter()
            text += message.text
        self.seen_s[kind].append(first_s - begun_s)
        return text

    async def arrive(self, rate: float, one: Callable[[random.Random], Coroutine[None, None, object]]) -> None:
        """Poisson arrivals, each with random numbers of its own."""
        begun_s, at_s = time.perf_counter(), 0.0
        rng = random.Random(self.rng.random())  # noqa: S311 - a load, no secret
        async with asyncio.TaskGroup() as group:
            while (at_s := at_s + rng.expovariate(rate)) < self.load.seconds:
                its = random.Random(rng.random())  # noqa: S311 - as above
                await asyncio.sleep(max(0.0, begun_s + at_s - time.perf_counter()))
                group.create_task(one(its))

    async def mixed(self) -> None:
        """Short prompts and long ones."""

        def one_of(kind: str, least: int, most: int) -> Callable[[random.Random], Coroutine[None, None, str]]:
            return lambda rng: self.ask(kind, words(rng, rng.randint(least, most)))

        async with asyncio.TaskGroup() as group:
            for kind, (rate, least, most) in (("short", self.load.short), ("long", self.load.long)):
                group.create_task(self.arrive(rate, one_of(kind, least, most)))

    async def talks(self) -> None:
        """Conversations, with a second or so between turns."""
        rate, beginning, turn, turns = self.load.talks

        async def talk(rng: random.Random) -> None:
            said = words(rng, beginning)
            for number in range(turns):
                if number:
                    await asyncio.sleep(rng.expovariate(1.0))
                said += "\nuser: " + words(rng, turn) + "\nassistant:"
                said += await self.ask("later turns" if number else "first turns", said)

        await self.arrive(rate, talk)


@dataclass(frozen=True)
class Cell:
    """What to run."""

    load: str
    rule: str
    seed: int
    gateways: int


async def figures(addresses: Sequence[str], load: Load, cell: Cell) -> dict[str, object]:
    """One run and its figures."""
    engine_module.TOKENS_PER_REQUEST, prefixes.MOST_PIECES = RULES[cell.rule]  # type: ignore[assignment]
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(Engines(addresses)) for _ in range(cell.gateways)]
        rng = random.Random(cell.seed)  # noqa: S311 - a load, no secret
        run = Run(load, pools, f"{cell} {time.time()}", rng, defaultdict(list))
        await (run.mixed() if cell.load == "mixed" else run.talks())
    total = sum(pool.prompts.total for pool in pools)
    row = asdict(cell)
    for name in ("cached", "expected"):
        row[name] = round(sum(getattr(pool.prompts, name) for pool in pools) / total, 3)
    for kind, found in sorted(run.seen_s.items()):
        cuts = statistics.quantiles(found if len(found) > 1 else found * 2, n=100, method="inclusive")
        row[kind] = [len(found), round(1000 * cuts[49]), round(1000 * cuts[94])]
    return row


@asynccontextmanager
async def paced(count: int) -> AsyncIterator[list[str]]:
    """Engines in this process."""
    flags = ["--model", "paced.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]
    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(count):
            config = EngineConfig(Path("paced"), capacity_max_num_seqs=32, capacity_max_num_batched_tokens=1024)
            facts = ModelFacts("llama", "float32", "cpu", 60_000, Quarters.vocab_size)
            engine = AsyncEngine.embed(config, LoadedModel(Paced(), Quarters(), facts))
            stack.push_async_callback(engine.stop)
            lifecycle = Lifecycle()
            ports = GrpcPorts(parse(flags, {}), lifecycle)
            await ports.start()
            stack.push_async_callback(ports.stop, 0)
            lifecycle.loaded(engine)
            addresses.append(f"127.0.0.1:{ports.data_port}")
        yield addresses


@asynccontextmanager
async def processes(model: str, count: int) -> AsyncIterator[list[str]]:
    """Engines that compute."""
    flags = ["--threads", "1", "--dtype", "int8", "--host", "127.0.0.1"]
    found = {}
    for port in range(FIRST_PORT, FIRST_PORT + 3 * count, 3):
        ports = ["--port", str(port), "--control-port", str(port + 1), "--http-port", str(port + 2)]
        found[f"127.0.0.1:{port}"] = served.started(model, "cpu", [*flags, *ports])
    try:
        for address, process in found.items():
            await served.ready(address, process)
        yield list(found)
    finally:
        for process in found.values():
            served.stop(process)


async def main(model: str, loads: Sequence[str], turns: int, gateways: int) -> list[dict[str, object]]:
    """All runs."""
    load = PACED if model == "paced" else REAL
    rows = []
    async with paced(load.engines) if model == "paced" else processes(model, load.engines) as addresses:
        for name in loads:
            for seed in range(turns):
                # Each rule is first in its turn.
                for rule in (*list(RULES)[seed % 3 :], *list(RULES)[: seed % 3]):
                    rows.append(await figures(addresses, load, Cell(name, rule, seed, gateways)))
                    print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="paced, or a .gguf file")
    parser.add_argument("result", type=Path)
    parser.add_argument("--loads", nargs="+", choices=("mixed", "talks"), default=("mixed", "talks"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--gateways", type=int, default=1, help="each request comes to one of so many by chance")
    options = parser.parse_args()
    found = asyncio.run(main(options.model, options.loads, options.turns, options.gateways))
    options.result.write_text("".join(f"{json.dumps(row)}\n" for row in found), encoding="utf-8")
