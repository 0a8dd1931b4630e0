"""Batch work that may wait: how many engines keep its deadlines beside the online demand.

Each request must be finished `deadline_s` after it came, and they are served in the order in which they came. So of those
that are here, the ones that had come by time a must be done by a + deadline_s, and the engines work them off with what the
online demand leaves free until then:

    left(a) = work of all that are here * (came by a - finished) / here
    until   = a + AIM * deadline_s - lead - now                  at least LEAST_S; lead: an ordered replica serves after it
    engines = max over a of  left(a) / until + mean online demand of the last `until` seconds

Before a removal the demand of all classes in the mean must fit as well, else what waits would only grow until it orders
again what was removed:

    keep    = max(engines, requests with a deadline per second * work of one + mean online demand of a deadline)

AIM of the deadline, because the last requests still have their answers to make when all are admitted, and the demand may
rise. A mean and no peak: work that can wait orders nothing for a burst. Nor does it add to the reserve that bursts of online
demand need, since it gives way to them: the larger of the two counts (`coordinator.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from headway_planner.capacity import Mix

LEAST_S = 30.0
AIM_UP, AIM_KEEP = 0.3, 0.25  # of the deadline: before an order, and before a removal, so that the two are not in turn
MARKS = 200  # arrivals are remembered so often within a deadline
ENOUGH_REQUESTS = 4.0  # before a mean length is believed
NEWEST = 64.0  # requests that lengths rest on
PER_SLOT = 2.0  # and at least so many for each that may run


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests with a deadline and their tokens: sums over those that came, and over those that were answered, of late.

    Attributes:
        answered: a request that runs is half of one.
        output_tokens: of answers, unfinished ones too.
    """

    admitted: float = 0.0
    prompt_tokens: float = 0.0
    answered: float = 0.0
    output_tokens: float = 0.0

    @property
    def means(self) -> tuple[float, float]:
        """Tokens of a prompt and of an answer."""
        return self.prompt_tokens / max(1.0, self.admitted), self.output_tokens / max(1.0, self.answered)

    def renewed(self, grown: "Lengths", slots: float) -> "Lengths":
        """With what came and was answered since. What it rests on gives way to it, mixed: `NEWEST` requests, more where more have slots."""
        newest = max(NEWEST, PER_SLOT * slots)
        came = _kept(self.admitted, newest - grown.admitted)
        ended = _kept(self.answered, newest - grown.answered)
        return Lengths(
            came * self.admitted + grown.admitted,
            came * self.prompt_tokens + grown.prompt_tokens,
            ended * self.answered + grown.answered,
            ended * self.output_tokens + grown.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Deferred:
    """The requests with a deadline. Counters of the fleet since any start, and gauges, those at the gateway included.

    Attributes:
        queued_tokens: prompt tokens still to be computed.
    """

    arrivals: float
    input_tokens: float
    finished: float
    output_tokens: float
    running: float
    waiting: float
    queued_tokens: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is remembered. `marks`: (time, requests that had come by then), oldest first, none older than a deadline."""

    now: Deferred | None = None
    marks: tuple[tuple[float, float], ...] = ()

    @property
    def mix(self) -> Mix | None:
        """Mean lengths; None while they are not known."""
        now = self.now
        if now is None or now.arrivals < ENOUGH_REQUESTS:
            return None
        # A request that runs has made half of its answer on average. Before any is finished an answer is as long as what is made.
        answers = max(1.0, now.finished + now.running / 2)
        return Mix(now.input_tokens / now.arrivals, max(1.0, now.output_tokens / answers))

    def rate(self, at_s: float) -> float:
        """Requests a second since the oldest mark."""
        if self.now is None or not self.marks or at_s <= self.marks[0][0]:
            return 0.0
        return (self.now.arrivals - self.marks[0][1]) / (at_s - self.marks[0][0])


@dataclass(frozen=True, slots=True)
class Asked:
    """What the deadlines ask for now. `left_s`: engine seconds of all that is here; `replicas`: before an order."""

    left_s: float
    replicas: int


def noted(backlog: Backlog, deferred: Deferred, at_s: float, deadline_s: float) -> Backlog:
    """The backlog with what is seen now."""
    marks = tuple(mark for mark in backlog.marks if mark[0] > at_s - deadline_s)
    if not marks or at_s - marks[-1][0] >= deadline_s / MARKS:
        marks = (*marks, (at_s, deferred.arrivals))
    return replace(backlog, now=deferred, marks=marks)


def engines_for(backlog: Backlog, left_s: float, work: Sequence[float], until_s: Sequence[float]) -> float:
    """Engines for the deadlines and the online demand together; 0 when nothing waits for a deadline.

    Args:
        backlog: what came and when.
        left_s: engine seconds of all that is here.
        work: online demand, engines, one value a second, oldest first.
        until_s: of each mark, the time in which what came by it should be done.
    """
    now = backlog.now
    here = now.running + now.waiting if now is not None else 0.0
    if now is None or here <= 0 or left_s <= 0:
        return 0.0
    sums = list(accumulate(work, initial=0.0))
    most = 0.0
    for old, left in zip(_older(backlog, here), until_s, strict=True):
        if old <= 0:
            continue
        span = max(LEAST_S, left)
        seen = min(len(work), round(span))
        online = (sums[-1] - sums[-1 - seen]) / seen if seen else 0.0
        most = max(most, left_s * old / here / span + online)
    return most


def spare_s(backlog: Backlog, at_s: float, deadline_s: float, done_s: float) -> float:
    """How long before its deadline the tightest of what is here is done; below 0: it will be late by so much.

    `done_s`: the time in which all of it is. Infinite when nothing is here.
    """
    now = backlog.now
    here = now.running + now.waiting if now is not None else 0.0
    if here <= 0:
        return math.inf
    return min(
        mark_s + deadline_s - at_s - done_s * old / here
        for (mark_s, _), old in zip(backlog.marks, _older(backlog, here), strict=True)
        if old > 0
    )


def _older(backlog: Backlog, here: float) -> list[float]:
    """Of what is here, how many had come by each mark: what is finished is taken to be what came first."""
    finished = backlog.now.finished if backlog.now is not None else 0.0
    newest = backlog.marks[-1][1] if backlog.marks else 0.0
    # What came since the newest mark counts with it.
    return [here if came >= newest else min(here, came - finished) for _, came in backlog.marks]


def _kept(requests: float, room: float) -> float:
    """The share of so many requests that there is room for; 0..1."""
    return min(1.0, max(0.0, room) / requests) if requests > 0 else 1.0
