"""The demand of the last seconds, which orders replicas whatever the forecast says, as far as it cannot wait."""

from collections.abc import Sequence

from headway_planner.capacity import Capacity
from headway_planner.forecast import LEAST_LEVEL_S, MOST_LEVEL_S, queue_slack_s
from headway_planner.staffing import UTILIZATION, mean

SURGE_S = 10  # the shortest time whose mean says something
TARGETS = (
    6.0  # what came in so many TTFT targets counts in full, in no less than a surge and no more than the shortest level
)
DRAIN_S = 30.0  # in which a backlog is worked off


def recent_demand(engine: Capacity, work: Sequence[float], prompts: Sequence[float], ttft_target_ms: float) -> float:
    """Engines: what came of late, or in the last 10 s if that is too much to wait. `work`, `prompts`: one value a second.

    What may wait needs no replica: of a surge counts what would wait too long if it went on for `DRAIN_S`.
    """
    of_late_s = min(LEAST_LEVEL_S, max(SURGE_S, round(TARGETS * ttft_target_ms / 1000)))
    cannot_wait = UTILIZATION / (UTILIZATION + queue_slack_s(ttft_target_ms) / DRAIN_S)
    surge = _came(engine, work, prompts, SURGE_S)
    return max(_came(engine, work, prompts, of_late_s), surge * cannot_wait)


def _came(engine: Capacity, work: Sequence[float], prompts: Sequence[float], seconds: int) -> float:
    """The mean demand of prompts as it came, of answers as slots see it.

    An answer holds its slot for as long as it takes, so the slots that are taken follow the mean demand of that time: of a
    shorter surge nothing waits. A full engine turns its batch over in batch / rate.
    """
    stay_s = min(MOST_LEVEL_S, max(seconds, round(engine.batch / engine.rate)))
    return mean(prompts[-seconds:]) + mean(work[-stay_s:]) - mean(prompts[-stay_s:])
