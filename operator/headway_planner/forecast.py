"""How many replicas the demand needs within a horizon, from the demand of the last hour, one value a second.

    level    = mean of the last level_s
    rise_q   = quantile q of max(level over the next H) - level, over the last hour; more than one rise must exceed it
    ahead    = level + rise_q, at most PEAK_MARGIN times the highest level seen
    shape    = ahead + (demand - local mean) * sqrt(ahead / local mean), last REPLAY_S, at full caution all of the past

`shape` is replayed twice (`staffing.py`). All work may wait for the part of the TTFT target that the queue may take, and as
long as the free slots of the engines take in what they do not finish: a decoding request is not late. Prompts alone may wait
for that part of the target and no longer. The larger answer counts. A queue that has stood for the horizon is gone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headway_planner.capacity import Capacity
from headway_planner.staffing import PATIENCE, UTILIZATION, centred_mean, mean, needed, rise, rolling_mean

REPLAY_S, REPLAY = 900, 4  # seconds at the most, horizons
LEAST_LEVEL_S, MOST_LEVEL_S = 60, 90  # that a level is a mean of; a start in between
LEVEL_FLOOR = 0.5  # engines
GROWTH_PRIOR = 1.2  # until the rises of the past is believed
EVIDENCE, EVIDENCE_S = 10.0, 600.0  # horizons of demand, or seconds, before it is; three horizons at the least
PEAK_MARGIN = 1.1
LONG_S = 300.0  # until the past is believed, a longer horizon has a larger margin, up to the prior
OWN_S = 2.0  # of a long TTFT target all but these seconds may pass in the queue, of others what engines call patience
SLOTS = 0.5  # share of the free slots that a forecast may fill


@dataclass(frozen=True, slots=True)
class Past:
    """Engines of demand, one value a second, oldest first: all work, and that of prompts.

    Attributes:
        level_s: what a level is a mean of.
        levels: of all work, at each second.
    """

    work: Sequence[float]
    prompts: Sequence[float]
    level_s: int
    levels: list[float]
    # What was asked for: both forecasts of a plan often ask for the same.
    _swings: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, work: Sequence[float], prompts: Sequence[float], level_s: int = LEAST_LEVEL_S) -> "Past":
        """With its levels, which every forecast looks at."""
        return cls(work, prompts, level_s, rolling_mean(work, level_s))

    def swings(self, seconds: int) -> tuple[list[float], list[float]]:
        """How far all work, and that of prompts, was from the mean around it in each of so many newest seconds.

        In square roots of that mean: a larger demand is more users, whose bursts add with the square root.
        """
        if seconds not in self._swings:
            work, prompts = self.work[-seconds:], self.prompts[-seconds:]
            self._swings[seconds] = _swings(work, self.level_s), _swings(prompts, self.level_s)
        return self._swings[seconds]


@dataclass(frozen=True, slots=True)
class Ask:
    """What the replicas must hold: the TTFT target, the share of late requests, the most replicas, a removal's window.

    `caution`: 0 to 1, see `budget.py`. `room`: for so many times the level.
    """

    ttft_target_ms: float
    late_allowed: float
    max_replicas: int
    hold_s: float = 60.0
    caution: float = 0.0
    room: float = 1.0


def queue_slack_s(ttft_target_ms: float) -> float:
    """How much of the TTFT target may pass in the queue, seconds; the rest is the prompt's own."""
    target_s = ttft_target_ms / 1000
    return max(PATIENCE * target_s, target_s - OWN_S)


def believed_s(horizon_s: float) -> float:
    """How much of the past must be known before its rises within a horizon are believed."""
    return max(3 * horizon_s, min(EVIDENCE * horizon_s, EVIDENCE_S))


def forecast(
    past: Past, engine: Capacity, ask: Ask, horizon_s: float, share: float, *, least: int = 1
) -> tuple[int, float]:
    """Replicas for the level that the demand exceeds within the horizon with probability 1 - `share`; and that level.

    `least`: fewer are not looked for.
    """
    levels = past.levels
    if not levels:
        return least, 0.0
    now = levels[-1]
    ahead = (now + LEVEL_FLOOR) * GROWTH_PRIOR - LEVEL_FLOOR
    # A long start may meet a load that has only risen since it is seen.
    margin = min(GROWTH_PRIOR, PEAK_MARGIN * max(1.0, horizon_s / LONG_S))
    if len(levels) >= believed_s(horizon_s):
        ahead, margin = now + rise(levels, (round(horizon_s), past.level_s), share), PEAK_MARGIN
    ahead = max(now, min(ahead, margin * max(levels)))
    ahead *= ask.room
    slack_s = queue_slack_s(ask.ttft_target_ms)

    # The bursts of as long as a removal waits, and some removals and starts take; after late ones those of all the past.
    recent_s = min(REPLAY_S, max(ask.hold_s, REPLAY * horizon_s))
    replay = round(recent_s * max(1.0, len(past.work) / recent_s) ** ask.caution)

    def wait_s(count: int) -> float:
        return slack_s + SLOTS * engine.slack_s(ahead / (UTILIZATION * count))

    most, allowed = ask.max_replicas, ask.late_allowed
    all_work, of_prompts = past.swings(replay)
    every = needed(_at_level(all_work, ahead), wait_s, allowed, (least, most), horizon_s)
    prompts = ahead / max(now, LEVEL_FLOOR) * mean(past.prompts[-past.level_s :])
    return needed(_at_level(of_prompts, prompts), lambda _: slack_s, allowed, (every, most), horizon_s), ahead


def _swings(values: Sequence[float], span_s: int) -> list[float]:
    sqrt = math.sqrt  # an hour of seconds: a name to look up less, and no `max`, which is slow
    return [
        (one - around) / sqrt(around if around > LEVEL_FLOOR else LEVEL_FLOOR)  # noqa: FURB136
        for one, around in zip(values, centred_mean(values, span_s), strict=True)
    ]


def _at_level(swings: Sequence[float], level: float) -> list[float]:
    """The last minutes at another level."""
    root = math.sqrt(level)
    return [work if (work := level + swing * root) > 0.0 else 0.0 for swing in swings]
