"""Fixed limits beside the operator's loop, on a real engine under traffic that changes: `python benchmarks/goodput.py FOLDER MODEL`.

MODEL is a shape of `headway_engine.bench.shapes` (random weights) or a `.gguf` file. The engine is the real one: gRPC front,
step process, traffic from client processes over loopback. First a few seconds of requests show what its steps cost; then every
contestant gets the same schedule (`goodput_traffic.py`) at the same rates. Contestants differ in the LLMDeployment that the
operator's own passes work for (`goodput_loop.py`), and in nothing else:

    defaults        the limits that an engine has without flags, tuning Off
    headway         the same limits, tuning Auto
    class           no limits written: those of class interactive, tuning Off
    class-headway   the same, tuning Auto
    vllm-like       256 sequences, 8,192 tokens a step, tuning Off

    goodput         requests/s that were answered in full with TTFT and mean time between tokens inside the targets

With `--gpus N` there are N engines, and contestants run side by side, each on a GPU of its own; they change places between
repetitions. Needs what `gpu_online.py` needs, and pydantic.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import goodput_report
import goodput_traffic as traffic
import served
from goodput_costs import measured_costs
from goodput_loop import OneReplica, followed
from goodput_report import Run
from goodput_traffic import Phase

from headway_cli.bench import online
from headway_cli.bench.load import Share
from headway_cli.bench.report import Objective
from headway_engine.bench import report
from headway_operator.core.plan import Json
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits
from headway_rpc.client import EngineClient

TIMEOUT_S = 60.0
TEMPERATURE = 0.6
# What an engine has when no flag is given.
OWN: dict[str, Json] = {
    "maxNumSeqs": 64,
    "maxNumBatchedTokens": 2048,
    "maxQueuedRequests": 256,
    "batchWaitMilliseconds": 0,
    "batchingMode": "Continuous",
}
CONTESTANTS: dict[str, tuple[dict[str, Json], str]] = {
    "defaults": (OWN, "Off"),
    "headway": (OWN, "Auto"),
    "class": ({}, "Off"),
    "class-headway": ({}, "Auto"),
    "vllm-like": ({**OWN, "maxNumSeqs": 256, "maxNumBatchedTokens": 8192, "maxQueuedRequests": 1024}, "Off"),
}


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine process, on loopback."""

    port: int
    control_port: int

    @property
    def address(self) -> str:
        """Of its data port."""
        return f"127.0.0.1:{self.port}"


def main(argv: list[str] | None = None) -> None:
    """Measure and save."""
    options = parsed(argv)
    with engines(options) as found:
        asyncio.run(measure(options, found))


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fixed limits beside the operator's loop, on a real engine.")
    parser.add_argument("folder", type=Path, help="for the results")
    parser.add_argument("model", help="a shape, or a .gguf file")
    parser.add_argument("--contestants", nargs="+", default=["defaults", "headway"], choices=CONTESTANTS)
    parser.add_argument("--repetitions", type=int, default=1, metavar="N", help="with a seed each (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first repetition (0)")
    parser.add_argument("--share", type=float, default=0.85, metavar="X", help="of what one engine sustains (0.85)")
    parser.add_argument("--ttft", type=int, default=1500, metavar="MS", help="target (1500, that of interactive)")
    parser.add_argument("--itl", type=int, default=100, metavar="MS", help="target (100, that of interactive)")
    parser.add_argument("--lengths", type=float, default=1.0, metavar="X", help="times the tokens of the mixes (1)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="X", help="times the length of each phase (1)")
    parser.add_argument("--max-seqs", type=int, default=512, metavar="N", help="capacity: sequences (512)")
    parser.add_argument("--max-tokens", type=int, default=8192, metavar="N", help="capacity: tokens of a step (8192)")
    parser.add_argument("--clients", type=int, default=6, metavar="N", help="client processes per engine (6)")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (cuda)")
    parser.add_argument("--dtype", default="auto", help="of a model from a file (auto)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="engines side by side (1)")
    parser.add_argument("--port", type=int, default=50151, metavar="N", help="first port of the engines (50151)")
    parser.add_argument("--raw", action="store_true", help="save what became of each request, too")
    return parser.parse_args(argv)


@contextmanager
def engines(options: argparse.Namespace) -> Iterator[list[Engine]]:
    """The engines, loaded; on a GPU each where there are several."""
    found = [Engine(options.port + 2 * index, options.port + 2 * index + 1) for index in range(options.gpus)]
    processes = []
    try:
        for index, engine in enumerate(found):
            only = {"CUDA_VISIBLE_DEVICES": str(index)} if options.gpus > 1 else {}
            processes.append(served.started(options.model, options.device, _flags(options, engine), only))
        for engine, process in zip(found, processes, strict=True):
            asyncio.run(served.ready(engine.address, process))
        yield found
    finally:
        for process in processes:
            served.stop(process)


def _flags(options: argparse.Namespace, engine: Engine) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(engine.port), "--control-port", str(engine.control_port)]
    flags += ["--http-port", "0", "--prefix-cache", "off", "--dtype", options.dtype]
    flags += ["--capacity-max-num-seqs", str(options.max_seqs)]
    return [*flags, "--capacity-max-num-batched-tokens", str(options.max_tokens)]


async def measure(options: argparse.Namespace, found: Sequence[Engine]) -> None:
    """All repetitions; what there is so far is saved after each."""
    share = await _share(options, found[0])
    phases = traffic.scaled(traffic.PHASES, options.lengths, options.seconds)
    widest = BatchLimits(options.max_seqs, options.max_tokens)
    costs = await measured_costs(share, found[0].control_port, phases, widest, options.itl)
    phases = traffic.rated(phases, costs, widest, options.itl, options.share)
    print(f"cost of a step: {costs}", flush=True)
    print("rates: " + ", ".join(f"{phase.name} {phase.rate:.2f}/s" for phase in phases), flush=True)
    begun = datetime.now(UTC)
    runs: list[Run] = []
    for repetition in range(options.repetitions):
        schedule = tuple(traffic.arrivals(phases, options.seed + repetition))
        turn = repetition % len(options.contestants)
        order = [*options.contestants[turn:], *options.contestants[:turn]]
        for first in range(0, len(order), len(found)):
            together = zip(found, order[first : first + len(found)], strict=False)
            parts = [contest(options, one, name, replace(share, schedule=schedule)) for one, name in together]
            for done in await asyncio.gather(*parts):
                runs.append(replace(done, repetition=repetition))
                print(goodput_report.as_text(runs[-1], phases, Objective(options.ttft, options.itl)), flush=True)
        save(options, runs, (phases, costs), begun)


async def _share(options: argparse.Namespace, engine: Engine) -> Share:
    async with EngineClient(engine.address) as client:
        model = await client.model_info()
    return Share((engine.address,), (), options.seed, model.vocab_size, TEMPERATURE, TIMEOUT_S, mux=True, warmup=0)


async def contest(options: argparse.Namespace, engine: Engine, name: str, share: Share) -> Run:
    """One contestant on one engine."""
    replica = OneReplica(spec(options, name))

    async def current() -> list[str]:
        return [engine.address]

    async with followed(replica, engine.control_port) as looks:
        sent = await online.send(replace(share, addresses=(engine.address,)), options.clients, current)
    return Run(name, 0, sent.records, [replace(look, at_s=look.at_s - sent.start_s) for look in looks])


def spec(options: argparse.Namespace, name: str) -> dict[str, Json]:
    """The LLMDeployment of a contestant."""
    limits, mode = CONTESTANTS[name]
    return {
        "replicas": 1,
        "model": {"source": {"packed": {"path": "/models/bench.gguf"}}},
        "engine": {
            "device": options.device,
            "capacity": {"maxNumSeqs": options.max_seqs, "maxNumBatchedTokens": options.max_tokens},
            "limits": limits,
        },
        "slo": {
            "workloadClass": "interactive",
            "ttft": {"targetMilliseconds": options.ttft},
            "interTokenLatency": {"targetMilliseconds": options.itl},
        },
        "tuning": {"mode": mode},
    }


def save(
    options: argparse.Namespace, runs: Sequence[Run], found: tuple[Sequence[Phase], LearntSteps], begun: datetime
) -> None:
    """Write what there is, over what this run wrote before."""
    phases, costs = found
    objective = Objective(options.ttft, options.itl)
    settings = {key: value for key, value in vars(options).items() if key not in ("folder", "port", "raw")}
    settings |= {"model": Path(options.model).stem, "costs": asdict(costs)}
    result = report.Report(f"goodput-{settings['model']}", settings, goodput_report.figures(runs, phases, objective))
    text = report.as_lines(result, report.environment(), begun)
    more = [*goodput_report.lines(runs, phases, objective), *(goodput_report.raw(runs) if options.raw else ())]
    report.save(text + "".join(line + "\n" for line in more), result, begun, options.folder)
    for figure in result.figures:
        if figure.unit == "x":
            print(f"{figure.name}: {figure.value:.3f} {[round(one, 3) for one in figure.samples]}", flush=True)


if __name__ == "__main__":
    main()
