"""What keeps a fleet from its objective: the symptom in words with numbers, and the cure.

A late first token has one cause at a time. Its parts are the wait in the queue and the prefill, and the engines measure
both apart: prefill that is too slow on an idle engine cannot be cured by any limit or count; a wait with free slots is a
wait for company; any other long wait is a queue; the rest is compute. Beside it stand the rules over tokens, KV cache,
refusals, batch size, start time and foreign writers, each independent of the others. Which request waited for what is not
in an engine's statistics: these rules compare percentiles over the window, which add up only roughly.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from headway_operator.api.conditions import Reason
from headway_operator.core import symptoms_latency, symptoms_supply
from headway_operator.core.evidence import Evidence


class Severity(StrEnum):
    """How much a symptom costs."""

    CRITICAL = "critical"  # requests are refused, or the objective cannot be met as it is
    WARNING = "warning"  # the objective is missed, or capacity lies idle


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that is wrong.

    Attributes:
        name: from the vocabulary of conditions.
        words: what was measured, with numbers and bounds.
        cure: what to do about it.
    """

    name: Reason
    severity: Severity
    words: str
    cure: str


Words: TypeAlias = tuple[str, str]  # what was measured, and the cure
Rule: TypeAlias = Callable[[Evidence, bool], Words | None]

CRITICAL = frozenset({Reason.PROMPTS_TOO_LONG, Reason.QUEUE_FULL})

# The first that holds is the cause of late first tokens.
FIRST_TOKEN: tuple[tuple[Reason, Rule], ...] = (
    (Reason.PROMPTS_TOO_LONG, symptoms_latency.prompts_too_long),
    (Reason.BATCH_WAIT_TOO_LONG, symptoms_latency.batch_wait_too_long),
    (Reason.QUEUE_TOO_LONG, symptoms_latency.queue_too_long),
    (Reason.PREFILL_TOO_SLOW, symptoms_latency.prefill_too_slow),
)
OTHERS: tuple[tuple[Reason, Rule], ...] = (
    (Reason.QUEUE_FULL, symptoms_supply.queue_full),
    (Reason.DEADLINE_MISSED, symptoms_supply.deadline_missed),
    (Reason.KV_CACHE_FULL, symptoms_supply.kv_cache_full),
    (Reason.STEPS_TOO_LONG, symptoms_latency.steps_too_long),
    (Reason.COLD_START_TOO_SLOW, symptoms_supply.cold_start_too_slow),
    (Reason.BATCHES_TOO_SMALL, symptoms_supply.batches_too_small),
    (Reason.RIVAL_WRITER, symptoms_supply.rival_writer),
    (Reason.WINDOW_SET_ASIDE, symptoms_supply.window_set_aside),
)
NAMES = tuple(name for name, _ in (*FIRST_TOKEN, *OTHERS))


def symptoms(evidence: Evidence, reported: Collection[Reason] = ()) -> tuple[Symptom, ...]:
    """Every symptom of this window, the worst first. `reported`: those that stood before; their edges are eased."""
    found: list[Symptom] = []
    for name, rule in FIRST_TOKEN:
        if (words := rule(evidence, name in reported)) is not None:
            found.append(_symptom(name, words))
            break
    for name, rule in OTHERS:
        if (words := rule(evidence, name in reported)) is not None:
            found.append(_symptom(name, words))
    return tuple(sorted(found, key=lambda one: (one.severity is not Severity.CRITICAL, NAMES.index(one.name))))


def _symptom(name: Reason, words: Words) -> Symptom:
    return Symptom(name, Severity.CRITICAL if name in CRITICAL else Severity.WARNING, *words)
