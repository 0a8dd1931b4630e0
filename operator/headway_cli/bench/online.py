"""`headway bench online`: Poisson arrivals over gRPC, judged by the latency that users would see."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from headway_cli import target
from headway_cli.bench import arguments, front, peers, predicted, report
from headway_cli.bench.load import LoadClient, Share
from headway_cli.bench.worker import LINE_BYTES, decode_records, encode_share
from headway_cli.bench.workload import Arrival, arrivals, fit
from headway_cli.errors import CliError
from headway_cli.simulate import engines
from headway_cli.target import Current
from headway_planner.model import BatchLimits
from headway_planner.steps import StepModel
from headway_rpc.client import EngineClient, EngineError

# From "everyone is connected" to the first possible arrival.
START_DELAY_S = 0.2
FOLLOW_S = 1.0  # between two looks at which pods serve


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    workload = arguments.workload(options)
    model = engines.load(options.against, options.against_engine) if options.against else None
    peer = peers.online(options, workload) if options.peer else {}
    try:
        run = asyncio.run(_measure(options, arrivals(workload), model))
    except EngineError as error:
        raise CliError(str(error)) from None
    if options.records:
        _write_records(options.records, run)
    result = report.summarize(run.records, report.Objective(options.slo_ttft_ms, options.slo_tpot_ms))
    beside: list[predicted.Beside] = []
    if run.model:
        simulated = predicted.records(run.model, BatchLimits(run.seqs, options.against_tokens), run.schedule)
        beside = predicted.beside(run.records, simulated)
    if options.json:
        settings = {key: _plain(value) for key, value in vars(options).items() if key not in ("command", "json")}
        against = {"against": predicted.as_json(run.model, beside)} if run.model else {}
        over = {"over_peer": peers.as_json(peers.over(result, peer))} if peer else {}
        print(json.dumps({"settings": settings, **report.as_json(result), **against, **over}))
    else:
        print(report.as_text(result))
        if run.model:
            print(predicted.as_text(run.model, beside))
        if peer:
            print(peers.as_text(options.peer, peers.over(result, peer)))
    return 0


@dataclass(frozen=True, slots=True)
class _Run:
    """What was sent, what became of it, and with `--against` the model with the front's share and the engine's slots."""

    schedule: Sequence[Arrival]
    records: Sequence[report.Record]
    model: StepModel | None
    seqs: int


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _write_records(path: Path, run: _Run) -> None:
    rows = (
        json.dumps({"input_tokens": arrival.input_tokens, "output_tokens": arrival.output_tokens, **asdict(record)})
        for arrival, record in zip(run.schedule, run.records, strict=True)
    )
    try:
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise CliError(f"--records: cannot write {path}: {error.strerror}") from None


async def _measure(options: argparse.Namespace, schedule: list[Arrival], step_model: StepModel | None) -> _Run:
    async with target.following(options) as current:
        addresses = await current()
        async with EngineClient(addresses[0]) as client:
            await client.wait_ready(10.0)
            model = await client.model_info()
            seqs = (await client.loads()).max_running_requests
        if step_model and len(addresses) > 1:
            raise CliError(f"--against simulates one engine, and there are {len(addresses)}")
        schedule, cut = fit(schedule, model.max_model_len)
        if cut:
            print(f"{cut} requests are cut to the model's context of {model.max_model_len} tokens", file=sys.stderr)
        everything = Share(
            addresses=tuple(addresses),
            schedule=tuple(schedule),
            seed=options.seed,
            vocab_size=model.vocab_size,
            temperature=options.temperature,
            timeout_s=options.timeout,
            mux=options.mux,
            warmup=options.warmup,
        )
        if step_model:
            step_model = (await front.measured(everything, model.max_model_len, seqs)).on(step_model)
        sent = await send(everything, options.clients, current)
        return _Run(schedule, sent.records, step_model, seqs)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a schedule; `start_s`: the monotonic time that it counts from."""

    start_s: float
    records: list[report.Record]


async def send(everything: Share, clients: int, current: Current) -> Sent:
    """Send a schedule: from this process, or dealt out to several."""
    if clients == 1:
        async with LoadClient(everything) as load, _following(current, load.follow):
            start_s = time.monotonic() + START_DELAY_S
            return Sent(start_s, await load.run(start_s))
    return await _in_processes(split(everything, clients), current)


def split(everything: Share, clients: int) -> list[Share]:
    """Deal the arrivals out in turn; the first client alone warms the engines up."""
    return [
        replace(everything, schedule=everything.schedule[k::clients], warmup=everything.warmup if k == 0 else 0)
        for k in range(clients)
    ]


@asynccontextmanager
async def _following(current: Current, use: Callable[[Sequence[str]], Awaitable[None]]) -> AsyncIterator[None]:
    """Tell `use` each time that the engines become others."""

    async def watch() -> None:
        known: list[str] = []
        while True:
            await asyncio.sleep(FOLLOW_S)
            # A fleet without a ready pod, an API server that restarts: the load goes on with the engines it knows.
            with suppress(CliError):
                addresses = await current()
                if addresses != known:
                    await use(addresses)
                    known = addresses

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _in_processes(shares: Sequence[Share], current: Current) -> Sent:
    processes = [await _spawn() for _ in shares]
    try:
        for process, share in zip(processes, shares, strict=True):
            await _tell(process, encode_share(share))
        for process in processes:
            await _hear(process)
        start_s = time.monotonic() + START_DELAY_S
        for process in processes:
            await _tell(process, json.dumps(start_s))

        async def tell_all(addresses: Sequence[str]) -> None:
            for process in processes:
                await _tell(process, json.dumps(addresses))

        async with _following(current, tell_all):
            lines = await asyncio.gather(*(_hear(process) for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    records = (record for line in lines for record in decode_records(line))
    return Sent(start_s, sorted(records, key=lambda record: record.arrival_s))


async def _spawn() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headway_cli.bench.worker", stdin=pipe, stdout=pipe, limit=LINE_BYTES
    )


async def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    if process.stdin is None:
        raise AssertionError("a client process has a pipe")
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()


async def _hear(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        raise AssertionError("a client process has a pipe")
    line = await process.stdout.readline()
    if not line:
        raise CliError(f"a client process ended early, with exit code {await process.wait()}")
    return line.decode()
