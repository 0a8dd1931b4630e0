"""What `headway plan` prints for people."""

import math
import textwrap
from collections.abc import Sequence

from headway_cli.plan.claims import Finding
from headway_cli.plan.sources import Coefficient
from headway_planner.offer import Demand, Row
from headway_planner.trial import Trial

COLUMNS = 80  # of a terminal
_INDENT = 4 * " "


def rows(found: Sequence[Row]) -> list[str]:
    """The configurations. Why one cannot serve stands below it where there is no room beside it."""
    wide = max(5, *(len(row.gpu) + 1 for row in found))
    priced, shared = any(row.usd_per_hour for row in found), any(row.slack for row in found)
    head = f"{'GPU':{wide}}{'TP':>2}{'link':>7}{'replicas':>9}{'TTFT p95':>9}{'ITL p95':>8}{'tokens/s':>9}"
    # A line has no room for all three; the hour's price is that of the GPUs, the others cannot be read off a row.
    hourly = priced and not shared
    head += (f"{'USD/h':>8}" if hourly else "") + (f"{'USD/Mtok':>9}" if priced else "")
    head += f"{'slack':>6}" if shared else ""
    lines = [f"{head} binds"]
    for row in found:
        via = row.interconnect if row.interconnect and row.tp > 1 else "-"
        line = f"{row.gpu:{wide}}{row.tp:>2}{via:>7}{row.replicas or '-':>9}"
        line += f"{cell(row.ttft_p95_ms, 1):>9}{cell(row.itl_p95_ms, 1):>8}{cell(row.tokens_per_s, 0):>9}"
        line += f"{cell(row.usd_per_hour, 2):>8}" if hourly else ""
        line += f"{cell(row.usd_per_million, 3):>9}" if priced else ""
        line += f"{cell(row.slack.waiting if row.slack else None, 2):>6}" if shared else ""
        beside = row.replicas > 0 or len(line) + 1 + len(row.binds) <= COLUMNS
        lines.append(f"{line} {row.binds}" if beside else line)
        if not beside:
            lines += textwrap.wrap(row.binds, COLUMNS, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return lines


def advice(row: Row) -> str:
    """Which one to take, and why."""
    what = f"Take {row.replicas} x {row.gpu} TP{row.tp}"
    if row.usd_per_million is not None:
        return f"{what}: least cost, {row.usd_per_million:.3f} USD a million output tokens."
    return f"{what}: fewest GPUs ({row.gpus}); no --prices given."


def raised(found: Sequence[Row]) -> list[str]:
    """The counts that a short trial made larger."""
    return [
        f"{row.gpu} TP{row.tp}: {row.estimated} by the estimate, with which a short run in the simulator misses a target; {row.replicas} keep all."
        for row in found
        if row.estimated
    ]


def slack(row: Row) -> list[str]:
    """Where the work with deadlines goes, and what the fleet would be without it."""
    if row.slack is None:
        return []
    waiting = [one for one in row.classes if one.deadline_s < math.inf]
    what = ", ".join(f"{one.name} ({one.rate:g}/s, done in {one.deadline_s:.0f} s)" for one in waiting)
    mean = f"In slack: {what} takes {row.slack.waiting:.2f} engines in the mean"
    if not row.slack.replicas_online:
        return [f"{mean}; nothing else runs."]
    return [
        f"{mean} beside {row.slack.online:.2f} of the better classes, which alone need {row.slack.replicas_online}."
    ]


def parts(row: Row) -> str:
    """Where the time of a step goes."""
    shares = ", ".join(f"{name} {value:.1f} ms" for name, value in row.parts_ms.items())
    return f"A full step ({row.batch or 0:.0f} sequences a replica): {shares}."


def trials(row: Row, demand: Demand, runs: Sequence[Trial]) -> list[str]:
    """Simulated runs of a configuration beside its estimate: the estimated count, and the count that is enough if it is not."""
    lines = [line for run in runs for line in ("", *_trial(row, demand, run))]
    if not runs[0].confirmed:
        found = f"{runs[-1].replicas} keep it" if runs[-1].confirmed else "nor do 8 times as many keep it"
        lines.append(
            f"NOT CONFIRMED: the estimated count, {row.replicas}, misses a target at the 95th percentile; {found}. "
            "The load is more uneven than the estimate assumes."
        )
    return lines


def _trial(row: Row, demand: Demand, run: Trial) -> list[str]:
    what = f"Simulated {run.replicas} x {row.gpu} TP{row.tp}: {run.requests} requests in {run.span_s:.0f} s"
    gaps = f"p95 ITL {cell(run.itl_p95_ms, 1)} ms (estimate {cell(row.itl_p95_ms, 1)})"
    head = f"{'class':12}{'requests/s':>11}{'input':>8}{'output':>8}{'TTFT p95':>10}{'estimate':>10}{'target':>9}"
    lines = [
        f"{what}, {gaps}, {run.preemptions} preemptions, {run.unfinished} unfinished",
        f"{head}{'attainment':>12}",
    ]
    for one, planned, seen in zip(demand.classes, row.classes, run.classes, strict=True):
        share = "-" if seen.attainment is None else f"{100 * seen.attainment:.2f} %"
        aim = f"{one.ttft_ms:.0f}" if math.isinf(one.deadline_s) else f"{one.deadline_s:.0f} s"
        lines.append(
            f"{one.name:12}{one.rate:>11.2f}{one.mix.inputs:>8.0f}{one.mix.outputs:>8.0f}{cell(seen.ttft_p95_ms, 1):>10}"
            f"{cell(planned.ttft_p95_ms, 1):>10}{aim:>9}{share:>12}"
        )
    return lines


def sources(found: Sequence[Coefficient]) -> list[str]:
    """Every coefficient."""
    lines = [f"{'GPU':5}{'coefficient':24}{'value':>9}  {'unit':22}source; error"]
    lines += [
        f"{one.gpu:5}{one.coefficient:24}{one.value:>9.4g}  {one.unit:22}{one.source}; {one.error}" for one in found
    ]
    return lines


def claims(found: Sequence[Finding]) -> list[str]:
    """Every claim in Markdown, as the documentation has it."""
    lines = ["| claim | said | case | by | computed | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for one in found:
        holds = "yes" if one.differs == 0 else f"no: {_amount(one.differs, one.unit, '+')}"
        lines.append(
            f"| {one.claim} | {_said(one)} | {one.case} | {one.by} | {_amount(one.computed, one.unit)} | {holds} |"
        )
    return lines


def _said(one: Finding) -> str:
    if math.isinf(one.high):
        return f"at least {_amount(one.low, one.unit)}"
    return f"{one.low:.0f} to {_amount(one.high, one.unit)}" if one.low < one.high else _amount(one.low, one.unit)


def _amount(value: float, unit: str, sign: str = "") -> str:
    if unit == "tokens":
        return f"{value:{sign},.0f}"
    # What is off by less than a percent is not "-0 %".
    digits = 1 if 0 < abs(value) < 1 else 0
    return f"{value:{sign}.1f}x" if unit == "x" else f"{value:{sign}.{digits}f} {unit}"


def cell(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
