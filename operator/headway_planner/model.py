"""What a policy sees, what it may do, what it remembers, and what it answers.

All times are seconds on one clock that the caller chooses; latencies are milliseconds.
"""

from dataclasses import dataclass
from enum import StrEnum

MIN_REQUEST_SAMPLES = 8  # first tokens that a percentile needs
MIN_TOKEN_SAMPLES = 20  # gaps between tokens that a percentile needs


class Direction(StrEnum):
    """Which way a limit or a count moved."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The two limits that the policy moves, per engine."""

    seqs: int
    tokens: int


def direction_of(before: BatchLimits, after: BatchLimits) -> Direction:
    """Which way a change goes; the sequence cap speaks for both when they differ."""
    for old, new in ((before.seqs, after.seqs), (before.tokens, after.tokens)):
        if new != old:
            return Direction.UP if new > old else Direction.DOWN
    return Direction.NONE


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency over a window: the observed percentile, the median, and how many values they rest on."""

    high_ms: float | None = None  # at the objective's percentile
    median_ms: float | None = None
    count: int = 0
    share: float = 0.95  # of the values that do not exceed `high_ms`

    @property
    def percentile(self) -> str:
        """Its percentile in words: p95."""
        return f"p{100 * self.share:g}"


@dataclass(frozen=True, slots=True)
class LoadView:
    """The fleet over the last seconds, pooled over the engines that answered.

    Gauges are means over the window; a silent engine is counted by the caller, not guessed here.

    Attributes:
        serving: replicas that take requests.
        reporting: of those, how many have fresh samples.
        span_s: length of the window that the counters cover; 0 when there is no difference to take yet.
        waiting: requests waiting, all reporting engines together.
        emptied: every engine answers, and nothing waits in the newest samples, whatever the mean says.
        running: requests running, all reporting engines together.
        busiest_running: running requests of the busiest engine; its newest sample when that shows more than the mean, so that
            a full batch is seen at once.
        kv_usage: use of the KV cache in the fullest engine, 0..1.
        arrivals: requests received in the window.
        finished: requests finished in the window.
        prompt_share: prompt tokens as a share of all tokens computed, 0..1.
        active: whether anything ran, waited or arrived in the window.
        quiet: nothing ran, waited or arrived in the whole window of the objective, which is longer.
    """

    serving: int
    reporting: int
    span_s: float = 0.0
    waiting: float = 0.0
    emptied: bool = False
    running: float = 0.0
    busiest_running: float = 0.0
    kv_usage: float = 0.0
    arrivals: int = 0
    finished: int = 0
    prompt_share: float = 0.0
    active: bool = False
    quiet: bool = False
    ttft: Latency = Latency()
    queue_wait: Latency = Latency()
    prefill: Latency = Latency()
    itl: Latency = Latency()

    @property
    def fresh(self) -> bool:
        """Enough engines answer to decide on: at least half of those that serve, and at least one."""
        return self.reporting > 0 and 2 * self.reporting >= self.serving


@dataclass(frozen=True, slots=True)
class ScaleConfig:
    """Bounds and speed of the replica actuator."""

    min_replicas: int
    max_replicas: int
    ttft_target_ms: float
    itl_target_ms: float
    up_window_s: float
    up_step: int
    up_period_s: float
    down_window_s: float
    down_step: int
    down_period_s: float
    queue_per_replica: float = 4.0


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """One past change of the replica count."""

    at_s: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ScaleState:
    """What the replica actuator remembers.

    Attributes:
        desired: replicas worked towards.
        warming: replicas that are starting and will serve soon; they are credited as capacity.
        blocked: replicas that cannot be placed; more of them would not help.
        recommended: what was recommended in the pass before.
        recommended_since_s: since when recommendations differ from `desired` in one direction without a break.
        history: past changes, newest first.
        limits: the live limits of each engine.
        baseline_seqs: running sequences that the user planned an engine for; tuning beyond it is no capacity.
        raised_limits_at_s: when tuning last raised a limit, None when it never did.
        joined_at_s: when the newest replica that serves became ready, None when that is not known.
    """

    desired: int
    warming: int = 0
    blocked: int = 0
    recommended: int | None = None
    recommended_since_s: float | None = None
    history: tuple[ScaleEvent, ...] = ()
    limits: BatchLimits = BatchLimits(1, 1)
    baseline_seqs: int = 1
    raised_limits_at_s: float | None = None
    joined_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the demand asks for, in replicas, whatever the fleet has now.

    Attributes:
        up: replicas that the demand of now and the forecast need.
        keep: replicas that suffice over the horizon of a removal and a new start.
        keep_long: the largest `keep` of the whole window of a removal; None while that is not known.
        reason: the numbers in words.
    """

    up: int
    keep: int
    keep_long: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """How many replicas, and why.

    Attributes:
        replicas: what to work towards now, after stabilization and step limits.
        recommended: what the load asks for before them.
        since_s: what to remember as `recommended_since_s`.
        continued: `since_s` is the one that was given; else it is now.
        reason: one sentence with the numbers.
        limited: the load asks for more than the maximum; not when nothing runs, waits or arrives any more.
        hold: nothing could be decided, because data is missing.
    """

    replicas: int
    recommended: int
    since_s: float | None
    reason: str
    limited: bool = False
    hold: bool = False
    continued: bool = False


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Bounds and speed of the limit actuator."""

    seqs_min: int
    seqs_max: int
    tokens_min: int
    tokens_max: int
    ttft_target_ms: float
    itl_target_ms: float
    cooldown_s: float
    step: float = 0.25  # share of the current value moved by one change


@dataclass(frozen=True, slots=True)
class Guide:
    """Where the step model would have the limits.

    Attributes:
        seqs: the largest cap whose full batch keeps the time between tokens.
        tokens: the largest token budget whose full step does.
        seqs_itl_ms: time between tokens predicted for `seqs`.
        pressure: predicted wait of the queued prompts, as a share of the TTFT target.
        burst: the token budget beyond which a queue of prompts is worked off hardly faster; at least `tokens`.
    """

    seqs: int
    tokens: int
    seqs_itl_ms: float
    pressure: float
    burst: int


@dataclass(frozen=True, slots=True)
class TuneState:
    """What the limit actuator remembers. `before`: the limits before the last change; None before the first one."""

    limits: BatchLimits
    baseline: BatchLimits
    last_change_s: float | None = None
    before: BatchLimits | None = None

    @property
    def last_direction(self) -> Direction:
        """Which way the last change went."""
        return Direction.NONE if self.before is None else direction_of(self.before, self.limits)


@dataclass(frozen=True, slots=True)
class TuneDecision:
    """Which limits, and why.

    Attributes:
        hold: data is missing or the last change is too recent, nothing was judged.
        breach: the time between tokens was measured over its target, by compute and not for want of replicas.
    """

    limits: BatchLimits
    reason: str
    hold: bool = False
    breach: bool = False
