"""Batch work with a deadline, as the control loop takes it in: what came, what is here, how long its requests are.

The policy works from two figures: how many requests had come by some moment, and how many of all are finished; the
difference is what must be done by that moment's deadline. Pods come and go with what waits in them, so neither is a sum of
the engines' counters. What an engine has admitted since the look before is added to `came`, and all that is in it when it is
seen for the first time or restarted; finished is what came and is in no engine any more. So whatever is lost with a pod, and
whatever ends without an answer, is not waited for. A request that a gateway moved from one engine to another came once, to the
first one, and keeps its age. An engine that is silent for a while still has what it had.

Lengths are means over the newest requests, as if so many of them were known: what comes in a look takes the place of as many
of those before, mixed. So an engine that had short requests for a month mis-sizes a heap of long ones no longer than it takes
to answer some hundred. The first look of a process has the means from the status, or from all that the engines counted since
their boot. Tokens are counted when they are made and answers when they end, so one that is under way counts as half of one;
when all slots are filled at once that is a poor guess, and the requests that are remembered are more than they can hold.
"""

from collections.abc import Sequence
from typing import TypeAlias

from headway_operator.core.intake import Reports
from headway_operator.core.memory import Admitted, Arrived
from headway_operator.core.observed import EngineSample
from headway_planner.deferred import Deferred, Lengths

Pairs: TypeAlias = Sequence[tuple[Admitted, Admitted | None]]  # of each engine: now, and when it was last looked at


def take(reports: Reports, before: Arrived) -> tuple[Deferred | None, Arrived]:
    """The work with a deadline in this pass, and what to compare the next one with; None while no engine answers."""
    samples = reports.chosen
    if not samples:
        return None, before
    answering = {name: _admitted(sample) for name, sample in samples.items()}
    seen = {**{name: before.engines[name] for name in reports.silent if name in before.engines}, **answering}
    pairs = [(now, before.engines.get(name)) for name, now in answering.items()]
    share = reports.serving / len(seen)  # the others are taken to be like those that are counted
    running = share * sum(now.running for now in seen.values())
    waiting = share * sum(now.waiting for now in seen.values())
    grown = share * sum(_grown(now, then) for now, then in pairs)
    # The first look of a process: what is here is among what the status remembers.
    came = max(before.came + (grown if before.engines else 0.0), running + waiting)
    finished = came - running - waiting
    slots = sum(sample.effective.max_num_seqs or 0 for sample in samples.values())
    lengths = _lengths(pairs, before, slots)
    inputs, outputs = lengths.means
    found = Deferred(
        arrivals=came,
        input_tokens=came * inputs,
        finished=finished,
        output_tokens=max(1.0, finished + running / 2) * outputs,
        running=running,
        waiting=waiting,
        queued_tokens=share * sum(one.queued_tokens for one in seen.values()),
    )
    return found, Arrived(came, seen, lengths)


def _admitted(sample: EngineSample) -> Admitted:
    batch = sample.batch
    return Admitted(
        boot_id=sample.boot_id,
        admitted=batch.admitted,
        prompt_tokens=batch.prompt_tokens_admitted,
        # Those that were moved came elsewhere; which of what is here they are is not told.
        first=batch.here * batch.admitted / max(1, batch.admitted + max(0, batch.moved)),
        finished=batch.finished,
        running=max(0, batch.here - sample.num_waiting_batch),  # they hold a slot, or are on their way into the queue
        output_tokens=batch.tokens_out,
        waiting=sample.num_waiting_batch,
        queued_tokens=sample.queued_batch_tokens,
    )


def _grown(now: Admitted, then: Admitted | None) -> float:
    """Requests that came, and those that are here in an engine that was not known."""
    if then is None or then.boot_id != now.boot_id:
        return now.first
    return max(0, now.admitted - then.admitted)


def _lengths(pairs: Pairs, before: Arrived, slots: int) -> Lengths:
    # What an engine counted before it was seen may be old; for want of anything else it counts.
    since_boot = not before.engines and before.lengths == Lengths()
    grown = [growth for now, then in pairs if (growth := _growth(now, then, since_boot)) is not None]
    sums = [sum(column) for column in zip(*grown, strict=True)] or [0.0] * 4
    return before.lengths.renewed(Lengths(*sums), slots)


def _growth(now: Admitted, then: Admitted | None, since_boot: bool) -> tuple[float, float, float, float] | None:
    """Requests, prompt tokens, answers and their tokens; None: nothing that is known to be new."""
    answered = now.finished + now.running / 2
    if then is None and not since_boot:
        return None
    if then is None or then.boot_id != now.boot_id:
        return now.admitted, now.prompt_tokens, answered, now.output_tokens
    return (
        now.admitted - then.admitted,
        now.prompt_tokens - then.prompt_tokens,
        answered - then.finished - then.running / 2,
        now.output_tokens - then.output_tokens,
    )
