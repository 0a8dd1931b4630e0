"""From the fates of the requests to the figures of a load test. Pure.

Times count from the scheduled arrival, not from when the client got round to sending, so a client or an engine that
falls behind cannot hide it. A percentile is the smallest observed value that at least that share does not exceed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MAX_ERRORS = 5
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Record:
    """The fate of one request; times in seconds since the start of the test.

    Attributes:
        arrival_s: when it was due.
        sent_s: when it was sent.
        first_s: when its first token came; None when none did.
        last_s: when its last token came.
        tokens: tokens received.
        gaps_ms: gaps between messages with tokens.
        status: `OK`, or the gRPC status or finish reason that ended it.
        error: the engine's message, where it gave one.
        engine: address of the engine that had it last.
        retries: engines that would not take it before.
    """

    arrival_s: float
    sent_s: float
    first_s: float | None
    last_s: float | None
    tokens: int
    gaps_ms: tuple[float, ...]
    status: str
    error: str = ""
    engine: str = ""
    retries: int = 0

    @property
    def ttft_ms(self) -> float | None:
        """Due to first token."""
        return None if self.first_s is None else (self.first_s - self.arrival_s) * 1000

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        if self.first_s is None or self.last_s is None or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) * 1000 / (self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Objective:
    """What makes a request a good one."""

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """The figures. A percentile of nothing is None.

    `failed` are the requests without a full answer; `cut` are those of them that had begun to answer. `errors` are the
    engines' most frequent messages and how often each came.
    """

    requests: int
    completed: int
    failed: int
    cut: int
    retried: int
    engines: int
    statuses: dict[str, int]
    errors: dict[str, int]
    good_share: float
    objective: Objective
    ttft_ms: dict[str, float | None]
    tpot_ms: dict[str, float | None]
    gap_ms: dict[str, float | None]
    send_lag_ms: dict[str, float | None]
    output_tokens: int
    output_tokens_per_s: float
    wall_s: float


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summarize(records: Sequence[Record], objective: Objective) -> Report:
    """All figures of one test."""
    answered = [record for record in records if record.status == "OK"]
    ends = [record.last_s for record in records if record.last_s is not None]
    wall_s = max(ends, default=0.0)
    tokens = sum(record.tokens for record in records)
    return Report(
        requests=len(records),
        completed=len(answered),
        failed=len(records) - len(answered),
        cut=sum(record.status != "OK" and record.tokens > 0 for record in records),
        retried=sum(record.retries > 0 for record in records),
        engines=len({record.engine for record in answered}),
        statuses=dict(sorted(Counter(record.status for record in records).items())),
        errors=dict(Counter(record.error for record in records if record.error).most_common(MAX_ERRORS)),
        good_share=sum(_good(record, objective) for record in records) / len(records) if records else 0.0,
        objective=objective,
        ttft_ms=_percentiles([value for record in answered if (value := record.ttft_ms) is not None]),
        tpot_ms=_percentiles([value for record in answered if (value := record.tpot_ms) is not None]),
        gap_ms=_percentiles([gap for record in answered for gap in record.gaps_ms]),
        send_lag_ms=_percentiles([(record.sent_s - record.arrival_s) * 1000 for record in records]),
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s if wall_s else 0.0,
        wall_s=wall_s,
    )


def as_json(report: Report) -> dict[str, object]:
    """Plain data, for `--json`."""
    return asdict(report)


def as_text(report: Report) -> str:
    """The same for people."""
    objective = report.objective
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items()) or "none"
    lines = [
        f"requests     {report.requests} ({statuses}); {report.cut} cut, {report.retried} retried, {report.engines} engines",
        *(f"error        {count} x {message}" for message, count in report.errors.items()),
        f"good         {report.good_share:.1%} (TTFT <= {objective.ttft_ms:g} ms and TPOT <= {objective.tpot_ms:g} ms)",
        f"output       {report.output_tokens_per_s:,.1f} tok/s ({report.output_tokens:,} tokens in {report.wall_s:.1f} s)",
        f"{'ms':<12}" + "".join(f"{name:>10}" for name in SHARES),
    ]
    rows = (
        ("TTFT", report.ttft_ms),
        ("TPOT", report.tpot_ms),
        ("gap", report.gap_ms),
        ("send lag", report.send_lag_ms),
    )
    for name, values in rows:
        lines.append(f"{name:<12}" + "".join(_cell(values[share]) for share in SHARES))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:>10.1f}"


def _good(record: Record, objective: Objective) -> bool:
    if record.status != "OK" or record.ttft_ms is None:
        return False
    return record.ttft_ms <= objective.ttft_ms and (record.tpot_ms or 0.0) <= objective.tpot_ms


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    return {name: percentile(values, share) for name, share in SHARES.items()}
