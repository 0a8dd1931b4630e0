"""Which prompt tokens a step computes beside its decodes: in the order of the profile, as many as there is room for."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from headway_engine.core import slack
from headway_engine.core.limits import Limits, Profile
from headway_engine.core.sequence import Sequence
from headway_engine.core.step_time import LARGEST_CHUNK, SMALLEST_CHUNK, StepTime


class Cut(NamedTuple):
    """The next tokens of a sequence, as many as one step computes."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides how a step is cut."""

    limits: Limits
    step_time: StepTime


def cut_prompts(left: list[Cut], decodes: Collection[Sequence], room: int, rules: Rules) -> list[Cut]:
    """The prompt tokens of a step.

    Args:
        left: of each running sequence the prompt tokens that it lacks.
        decodes: the sequences that decode in this step.
        room: what they leave of its tokens.
        rules: profile, share of batch work, and how long a step takes.
    """
    limits, step_time = rules.limits, rules.step_time
    low_tail = limits.profile is Profile.LOW_TAIL
    ordered = sorted(left, key=lambda one: _shortest_first(one, step_time) if low_tail else one.sequence.rank)
    # Less than the room where running streams shall not wait longer; of batch work alone where others have a share.
    bounded = bool(ordered) and (low_tail or limits.reserved_percent > 0)
    beside = slack.work_beside(decodes, limits, step_time) if bounded else LARGEST_CHUNK
    cuts: list[Cut] = []
    for sequence, wanted in ordered:
        most = min(room, wanted)
        start = sequence.prefill_end - wanted
        if bounded and (low_tail or sequence.in_slack):  # those in slack come last
            fitting = step_time.tokens(beside, start)
            most = min(most, fitting if cuts or beside <= 0 else max(SMALLEST_CHUNK, fitting))
        if most <= 0:
            break
        room, beside = room - most, beside - step_time.work(most, start)
        cuts.append(Cut(sequence, most))
    return cuts


def prompts_left(running: Iterable[Sequence], cuts: Iterable[Cut] = ()) -> list[Cut]:
    """Of each running sequence the prompt tokens that it lacks when `cuts` are computed."""
    prefilling = [one for one in running if not one.decoding]
    taken = {sequence.sequence_id: num_tokens for sequence, num_tokens in cuts} if prefilling else {}
    left = [Cut(one, one.backlog - taken.get(one.sequence_id, 0)) for one in prefilling]
    return [cut for cut in left if cut.num_tokens]


def _shortest_first(one: Cut, step_time: StepTime) -> tuple[int, float]:
    """Class, then arrival plus the time that the prompt still needs.

    So a shorter prompt overtakes, but only one that arrives within the difference of the two times.
    """
    sequence, wanted = one
    still_ms = step_time.prefill_ms(wanted, sequence.prefill_end - wanted)
    return sequence.priority, sequence.request.arrival_s * 1000 + still_ms
