"""Requests on their way in: from `submit` until the step loop's own figures include them. Lives on the event loop.

The step loop tells its figures at step boundaries. A request that came since then is in tokenization, or sent and not seen yet;
what is said of the queue (its bound, the loads, the counts by class) is what the loop tells with those added.

The queue bound counts requests that hold no slot. Those that the next step could start at once do not count, so an idle engine
takes `max_num_seqs + max_queued_requests` requests in one instant, and a full one `max_queued_requests`.
"""

from collections import Counter, deque
from dataclasses import dataclass, replace

from headway_engine.core import slack
from headway_engine.core.metrics import ClassSnapshot, MetricsSnapshot
from headway_engine.core.request import FinishReason, Priority, Rejected, Request, RequestId, StatusCode
from headway_engine.runtime.stats import RejectReason, RequestCounts
from headway_engine.runtime.steps import Steps


@dataclass(slots=True)
class Entering:
    """A request in tokenization; `ended`: the reason of an abort that came meanwhile."""

    kind: Priority
    moved: bool
    ended: FinishReason | None = None


class Entrance:
    """The requests on their way in, and what was counted of all that came."""

    def __init__(self, steps: Steps) -> None:
        self.counts = RequestCounts()
        self._steps = steps
        self._entering: dict[RequestId, Entering] = {}
        # The requests sent that `LoopState` does not include yet, oldest first; and how many were sent.
        self._unseen: deque[Request] = deque()
        self._sent = 0

    def __len__(self) -> int:
        """Requests in tokenization."""
        return len(self._entering)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._entering

    def begin(self, request_id: RequestId, kind: Priority, *, moved: bool) -> Entering:
        """A request comes in; `end` follows in all cases."""
        entering = self._entering[request_id] = Entering(kind, moved)
        return entering

    def end(self, request_id: RequestId) -> None:
        """The request was sent, or will not be."""
        del self._entering[request_id]

    def abort(self, request_id: RequestId, reason: FinishReason) -> bool:
        """Have a request end as soon as it is in; False when it is not on its way."""
        if request_id not in self._entering:
            return False
        self._entering[request_id].ended = reason
        return True

    def sent(self, request: Request, kind: Priority) -> None:
        """The step loop was given the request."""
        self._sent += 1
        self._unseen.append(request)
        self._forget_seen()  # also where nobody ever asks for figures
        self.counts.take(kind, len(request.prompt_ids), moved=request.moved)

    def refuse(self, reason: RejectReason, rejected: Rejected) -> Rejected:
        """Count a refusal."""
        self.counts.rejected[reason] += 1
        return rejected

    def num_waiting(self) -> int:
        """Requests that hold no slot: in the scheduler's queue, not seen by it yet, or in tokenization.

        Not the streams less those that run: a stream hears of its end when the step loop has given its slot to the next one.
        """
        self._forget_seen()
        return self._steps.state.num_waiting + len(self._unseen) + len(self._entering)

    def num_waiting_batch(self) -> int:
        """Of those, batch requests."""
        self._forget_seen()
        coming = sum(entering.kind is Priority.BATCH for entering in self._entering.values())
        sent = sum(request.priority is Priority.BATCH for request in self._unseen)
        return self._steps.state.num_waiting_batch + sent + coming

    def prompt_tokens(self, *kinds: Priority) -> int:
        """Of the requests of these classes that the step loop has not seen yet."""
        self._forget_seen()
        return sum(len(request.prompt_ids) for request in self._unseen if request.priority in kinds)

    def refuse_if_full(self, request: Request, kind: Priority) -> Rejected | None:
        """Refuse a request for which the queue has no room. Batch work that waits takes none from better classes.

        What another engine had taken comes on top, as much as one more engine can hold.
        """
        state = self._steps.state
        limits, queued = state.limits.effective, self.num_waiting()
        apart = limits.max_queued_batch_requests > 0
        if apart and kind is Priority.BATCH:
            name, bound = "limits.max_queued_batch_requests", limits.max_queued_batch_requests
        else:
            name, bound = "limits.max_queued_requests", limits.max_queued_requests
            queued -= self.num_waiting_batch() if apart else 0
        starting = state.open_slots
        more = bound + limits.max_num_seqs if request.moved else 0
        if queued < bound + more + starting:
            return None
        own = state.metrics.classes[kind].queue_wait
        wait_ms = (own if own.count else state.metrics.queue_wait).quantile(0.5) or 0.0
        message = f"{queued - starting} requests wait for a slot, {name} is {bound}"
        message += f", and {more} more may come from other engines" if request.moved else ""
        self.counts.queue_full[kind] += 1
        retry_ms = int(min(max(wait_ms, 100.0), 10_000.0))
        return self.refuse(RejectReason.QUEUE_FULL, Rejected(StatusCode.RESOURCE_EXHAUSTED, message, retry_ms))

    def room_for_batch(self, in_flight: int) -> int:
        """Slots that batch work may take, less all that is in flight. Where somebody waits for blocks, a slot alone does not help."""
        state = self._steps.state
        limits = state.limits.effective
        slots = limits.max_num_seqs - slack.kept_free(limits.max_num_seqs, limits)
        return (slots if state.open_slots else min(slots, state.num_running)) - in_flight

    def classes(self, metrics: MetricsSnapshot) -> dict[Priority, ClassSnapshot]:
        """The classes that had requests; with what the step thread does not know, or not yet."""
        counts, entering = self.counts, self._entering.values()
        coming = Counter(one.kind for one in entering if not one.moved)
        moving = Counter(one.kind for one in entering if one.moved)
        return {
            kind: replace(
                one,
                admitted=counts.admitted[kind] + coming[kind],
                prompt_tokens_admitted=counts.prompt_tokens_admitted[kind],
                refused=counts.queue_full[kind],
                moved=one.moved + counts.taken_over[kind] + moving[kind],
            )
            for kind, one in zip(Priority, metrics.classes, strict=True)
            if counts.admitted[kind] + coming[kind] + counts.taken_over[kind] + moving[kind] or counts.queue_full[kind]
        }

    def _forget_seen(self) -> None:
        while len(self._unseen) > self._sent - self._steps.state.requests_taken:
            self._unseen.popleft()
