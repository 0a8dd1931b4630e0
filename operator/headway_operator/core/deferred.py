"""Batch work with a deadline, as the control loop takes it in: what came, what is here, how long its requests are.

The policy works from two figures: how many requests had come by some moment, and how many of all are finished; the
difference is what must be done by that moment's deadline. Pods come and go with what waits in them, so neither is a sum of
the engines' counters. What an engine has admitted since the look before is added to `came`, and all that is in it when it is
seen for the first time or restarted; finished is what came and is in no engine any more. So whatever is lost with a pod, and
whatever ends without an answer, is not waited for. A request that a gateway moved from one engine to another came once, to the
first one, and keeps its age.

Lengths are those of all requests that the engines counted since their boot.
"""

from collections.abc import Iterable

from headway_operator.core.intake import Reports
from headway_operator.core.memory import Admitted, Arrived
from headway_operator.core.observed import EngineSample
from headway_planner.deferred import Deferred


def take(reports: Reports, before: Arrived) -> tuple[Deferred | None, Arrived]:
    """The work with a deadline in this pass, and what to compare the next one with; None while no engine answers."""
    samples = reports.chosen
    if not samples:
        return None, before
    share = reports.serving / len(samples)  # the others are taken to be like those that are counted
    running = share * sum(_running(sample) for sample in samples.values())
    waiting = share * sum(sample.num_waiting_batch for sample in samples.values())
    grown = share * sum(_grown(sample, before.engines.get(name)) for name, sample in samples.items())
    # The first look of a process: what is here is among what the status remembers.
    came = max(before.came + (grown if before.engines else 0.0), running + waiting)
    finished = came - running - waiting
    inputs, outputs = _lengths(samples.values())
    found = Deferred(
        arrivals=came,
        input_tokens=came * inputs,
        finished=finished,
        output_tokens=max(1.0, finished + running / 2) * outputs,
        running=running,
        waiting=waiting,
        queued_tokens=share * sum(sample.queued_batch_tokens for sample in samples.values()),
    )
    seen = {name: Admitted(sample.boot_id, sample.batch.admitted) for name, sample in samples.items()}
    return found, Arrived(came, seen)


def _running(sample: EngineSample) -> int:
    """Requests that hold a slot, or are on their way into the queue."""
    return max(0, sample.batch.here - sample.num_waiting_batch)


def _grown(sample: EngineSample, before: Admitted | None) -> float:
    if before is None or before.boot_id != sample.boot_id:
        # Those that were moved came elsewhere; which of what it had they are is not told.
        batch = sample.batch
        return batch.here * batch.admitted / max(1, batch.admitted + max(0, batch.moved))
    return max(0, sample.batch.admitted - before.admitted)


def _lengths(samples: Iterable[EngineSample]) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer; a request that runs has made half of its answer."""
    pairs = [(sample.batch, _running(sample)) for sample in samples]
    admitted = sum(batch.admitted for batch, _ in pairs)
    answers = sum(batch.finished + running / 2 for batch, running in pairs)
    made = sum(batch.tokens_out for batch, _ in pairs)
    return sum(batch.prompt_tokens_admitted for batch, _ in pairs) / max(1, admitted), made / max(1.0, answers)
