"""`headway top`: a live table of fleets and of the engines behind them.

Fleet rows come from the LLMDeployments' status, engine rows from `GetStats` of each pod's control port, reached through
the API server: what an engine reports of the last seconds is the difference of two answers. An engine that does not
answer keeps its row, with the reason.
"""

import argparse
import asyncio
import sys
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from headway_cli.cluster import Cluster, Json, Pod, named
from headway_cli.engine_stats import EngineStats
from headway_cli.errors import CliError
from headway_operator.core import histogram
from headway_rpc import pb

WINDOW_SAMPLES = 11  # ten seconds at one a second
PIPE_WIDTH = 200
SHORTEST_S, LONGEST_S = 0.1, 3600.0  # between two pictures


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine over the last seconds; `error` when it does not answer."""

    pod: str
    error: str = ""
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    ttft_p95_ms: float | None = None
    itl_p95_ms: float | None = None
    tokens_per_s: float = 0.0
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0


def engine_row(pod: str, older: pb.Stats, newer: pb.Stats) -> EngineRow:
    """What an engine did between two answers."""
    if older.boot_id != newer.boot_id:
        older = pb.Stats(uptime_seconds=newer.uptime_seconds - 1)
    span_s = newer.uptime_seconds - older.uptime_seconds

    def p95(new: pb.Histogram, old: pb.Histogram) -> float | None:
        difference = histogram.subtract(tuple(new.buckets), tuple(old.buckets))
        return None if difference is None else histogram.quantile(difference, 0.95)

    return EngineRow(
        pod=pod,
        running=newer.loads.num_running,
        waiting=newer.loads.num_waiting,
        kv_usage=newer.loads.token_usage,
        ttft_p95_ms=p95(newer.ttft, older.ttft),
        itl_p95_ms=p95(newer.itl, older.itl),
        tokens_per_s=(newer.generation_tokens - older.generation_tokens) / span_s if span_s > 0 else 0.0,
        max_num_seqs=newer.config.effective.max_num_seqs,
        max_num_batched_tokens=newer.config.effective.max_num_batched_tokens,
    )


def fleet_table(fleets: list[Json]) -> Table:
    """The fleets as their status has them."""
    table = Table(title="Fleets", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in (
        "NAMESPACE/NAME",
        "CLASS",
        "READY",
        "DESIRED",
        "TTFT P95",
        "ITL P95",
        "TOK/S",
        "QUEUE",
        "SEQS",
        "SLO",
    ):
        table.add_column(column, justify="left" if column in ("NAMESPACE/NAME", "CLASS", "SLO") else "right")
    for fleet in fleets:
        status = fleet.get("status") or {}
        slo = status.get("slo") or {}
        met = next((c["status"] for c in status.get("conditions") or [] if c["type"] == "SLOMet"), "-")
        table.add_row(
            f"{fleet['metadata']['namespace']}/{fleet['metadata']['name']}",
            (fleet["spec"].get("slo") or {}).get("workloadClass", "-"),
            str(status.get("readyReplicas", 0)),
            str((status.get("scaling") or {}).get("desiredReplicas", "-")),
            slo.get("ttftObserved", "-"),
            milliseconds(slo.get("interTokenLatencyObservedMilliseconds")),
            str(slo.get("tokensPerSecond", "-")),
            str(slo.get("queueDepth", "-")),
            str(((status.get("tuning") or {}).get("effective") or {}).get("maxNumSeqs", "-")),
            met,
        )
        # Further classes that share the fleet; the row above has the figures of its own one.
        for one in (slo.get("classes") or []) if "classes" in (fleet["spec"].get("slo") or {}) else []:
            if one["workloadClass"] != fleet["spec"]["slo"]["workloadClass"]:
                ttft, itl = one.get("ttftObservedMilliseconds"), one.get("interTokenLatencyObservedMilliseconds")
                table.add_row("", one["workloadClass"], "", "", milliseconds(ttft), milliseconds(itl))
    return table


def engine_table(rows: list[EngineRow]) -> Table:
    """The engines as they answered last."""
    table = Table(title="Engines, last 10 s", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("POD", "RUNNING", "WAITING", "KV", "TTFT P95", "ITL P95", "TOK/S", "SEQS", "TOKENS"):
        table.add_column(column, justify="left" if column == "POD" else "right")
    for row in rows:
        if row.error:
            table.add_row(row.pod, row.error)
            continue
        table.add_row(
            row.pod,
            f"{row.running}",
            f"{row.waiting}",
            f"{row.kv_usage:.0%}",
            milliseconds(row.ttft_p95_ms),
            milliseconds(row.itl_p95_ms),
            f"{row.tokens_per_s:.0f}",
            f"{row.max_num_seqs}",
            f"{row.max_num_batched_tokens}",
        )
    return table


def milliseconds(value: float | None) -> str:
    """A latency for a table; a dash while there is none."""
    return "-" if value is None else f"{value:.0f} ms"


class Rows:
    """Engine rows from each pod's last answers."""

    def __init__(self, engines: EngineStats) -> None:
        self._engines = engines
        self._answers: dict[str, deque[pb.Stats]] = {}

    async def now(self, pods: list[Pod]) -> list[EngineRow]:
        """Ask every pod at once."""
        answers = await self._engines.ask(pods)
        return [self._row(pod.name, answer) for pod, answer in zip(pods, answers, strict=True)]

    def _row(self, pod: str, answer: pb.Stats | str) -> EngineRow:
        if isinstance(answer, str):
            return EngineRow(pod, error=answer)
        answers = self._answers.setdefault(pod, deque(maxlen=WINDOW_SAMPLES))
        answers.append(answer)
        return engine_row(pod, answers[0], answer)


def command(options: argparse.Namespace) -> int:
    """Run it until interrupted, or `--iterations` times; returns the exit code."""
    # A shorter interval asks every engine, and the API server, as fast as they answer.
    if not SHORTEST_S <= options.interval <= LONGEST_S:
        raise CliError(f"--interval must lie in {SHORTEST_S:g} to {LONGEST_S:g} s, got {options.interval:g}")
    if options.iterations is not None and options.iterations < 1:
        raise CliError(f"--iterations must be at least 1, got {options.iterations}")
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    # A pipe has no width: rows must not be folded for whoever reads them there.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(await Cluster.connect(options.context))
        rows = Rows(EngineStats(cluster, stack))
        # A terminal is redrawn in place; a pipe gets one picture after another.
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        remaining = options.iterations
        while True:
            fleets = [
                f
                for f in await cluster.fleet_objects(options.namespace)
                if options.fleet in (None, f["metadata"]["name"])
            ]
            if not fleets and remaining is not None:
                raise CliError("no LLMDeployment to show; apply one first")
            pods = [pod for fleet in fleets for pod in await cluster.pods(named(fleet))]
            picture = Group(fleet_table(fleets), "", engine_table(await rows.now(pods)))
            if live is not None:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            if remaining is not None:
                remaining -= 1
                if remaining == 0:
                    return
            await asyncio.sleep(options.interval)
