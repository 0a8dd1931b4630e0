"""What `goodput.py` found: figures for a result file, lines for a plot beside them, and a text.

Beside the figures a result file has a line per window (`"kind": "window"`: what arrived and what of it was good) and per pass
of the operator (`"kind": "look"`: the limits in force, what ran and waited, the tuner's reason), for each contestant.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import goodput_traffic as traffic
from goodput_loop import Look
from goodput_traffic import Phase, Span

from headway_cli.bench.report import Objective, Record
from headway_engine.bench.report import Figure

GOAL = 1.2  # goodput of the loop over that of the engine's own limits
OURS, OWN_LIMITS = "headway", "defaults"
WINDOW_S = 2.5  # of the curves


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant through the schedule. `looks`: at the times of the records."""

    contestant: str
    repetition: int
    records: list[Record]
    looks: list[Look]

    def total(self, phases: Sequence[Phase], objective: Objective) -> Span:
        """The whole schedule."""
        (found,) = traffic.spans(self.records, (0.0, traffic.edges(phases)[-1]), objective)
        return found


def figures(runs: Sequence[Run], phases: Sequence[Phase], objective: Objective) -> tuple[Figure, ...]:
    """Each contestant in each phase and in all, repetitions as samples; then every contestant over the engine's own limits."""
    by: dict[str, list[Run]] = {}
    for run in runs:
        by.setdefault(run.contestant, []).append(run)
    found: list[Figure] = []
    for name, mine in by.items():
        spans = [traffic.spans(run.records, traffic.edges(phases), objective) for run in mine]
        for phase, same in zip(phases, zip(*spans, strict=True), strict=True):
            found += _of_spans(f"{name}: {phase.name}", same)
        found += _of_spans(f"{name}: total", [run.total(phases, objective) for run in mine])
    return (*found, *_ratios(by, phases, objective))


def _of_spans(name: str, spans: Sequence[Span]) -> Iterator[Figure]:
    yield _figure(f"{name} goodput", "req/s", [span.goodput for span in spans])
    yield _figure(f"{name} good", "%", [100 * span.report.good_share for span in spans])
    for label, values in (("TTFT p95", "ttft_ms"), ("TPOT p95", "tpot_ms")):
        seen = [value for span in spans if (value := getattr(span.report, values)["p95"]) is not None]
        if seen:
            yield _figure(f"{name} {label}", "ms", seen)
    yield _figure(f"{name} failed", "requests", [span.report.failed for span in spans])


def _ratios(by: Mapping[str, Sequence[Run]], phases: Sequence[Phase], objective: Objective) -> Iterator[Figure]:
    base = {run.repetition: run.total(phases, objective).goodput for run in by.get(OWN_LIMITS, ())}
    for name, mine in by.items():
        pairs = [(run.total(phases, objective).goodput, base.get(run.repetition, 0.0)) for run in mine]
        samples = [ours / theirs for ours, theirs in pairs if theirs > 0]
        if name != OWN_LIMITS and samples:
            yield _figure(f"{name} over {OWN_LIMITS}", "x", samples, GOAL if name == OURS else None)


def _figure(name: str, unit: str, samples: Sequence[float], goal: float | None = None) -> Figure:
    return Figure(name, unit, median(samples), tuple(samples), goal)


def as_text(run: Run, phases: Sequence[Phase], objective: Objective) -> str:
    """One run for people: each phase, and where the limits went and why."""
    lines = [f"{run.contestant}, repetition {run.repetition}"]
    spans = traffic.spans(run.records, traffic.edges(phases), objective)
    named = [*zip([phase.name for phase in phases], spans, strict=True), ("total", run.total(phases, objective))]
    for name, span in named:
        seen = span.report
        lines.append(
            f"  {name:<11} goodput {span.goodput:7.2f} of {span.offered:7.2f} req/s ({seen.good_share:6.1%})"
            f"  TTFT p50 {seen.ttft_ms['p50'] or 0:6.0f} p95 {seen.ttft_ms['p95'] or 0:6.0f}"
            f"  TPOT p50 {seen.tpot_ms['p50'] or 0:6.1f} p95 {seen.tpot_ms['p95'] or 0:6.1f}"
            f"  send lag p99 {seen.send_lag_ms['p99'] or 0:4.1f}  {seen.statuses} {seen.errors or ''}"
        )
    before: tuple[int, int] | None = None
    for look in run.looks:
        if (look.seqs, look.tokens) != before:
            before = look.seqs, look.tokens
            lines.append(f"  {look.at_s:6.1f} s  {look.seqs:4d} sequences {look.tokens:5d} tokens  {look.reason}")
    return "\n".join(lines)


def lines(runs: Sequence[Run], phases: Sequence[Phase], objective: Objective) -> Iterator[str]:
    """The curves, a JSON line each."""
    for phase, (begin_s, end_s) in zip(phases, traffic.bounds(phases), strict=True):
        yield _line("phase", begin_s=begin_s, end_s=end_s, **asdict(phase))
    for run in runs:
        whose = {"contestant": run.contestant, "repetition": run.repetition}
        for span in traffic.spans(run.records, traffic.grid(traffic.edges(phases)[-1], WINDOW_S), objective):
            yield _line(
                "window", **whose, begin_s=span.begin_s, end_s=span.end_s, goodput=span.goodput, offered=span.offered
            )
        for look in run.looks:
            yield _line("look", **whose, **asdict(look))


def raw(runs: Sequence[Run]) -> Iterator[str]:
    """What became of each request, a JSON line each."""
    for run in runs:
        for record in run.records:
            yield _line(
                "request",
                contestant=run.contestant,
                repetition=run.repetition,
                arrival_s=round(record.arrival_s, 4),
                ttft_ms=record.ttft_ms,
                tpot_ms=record.tpot_ms,
                tokens=record.tokens,
                status=record.status,
            )


def _line(kind: str, **fields: object) -> str:
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in fields.items()}
    return json.dumps({"kind": kind, **rounded})
