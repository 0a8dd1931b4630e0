"""Continuous batching: which tokens are computed in the next step, and what the sampled ones mean.

The caller loops `batch = schedule(now)`, `tokens = executor.run(batch)`, `events = commit(batch, tokens, now)`; between two
steps it adds, aborts, expires and sets limits. One step mixes decodes and prefill chunks under one token budget:

1. Waiting sequences are admitted when the mode dispatches them (`batching`), in the order of `waiting`, while there is a
   slot, the budget leaves them a token, and their blocks fit above a watermark. A better class may take the place of a worse
   one that runs, and batch work may have to wait for the slack of better ones (`slack`).
2. Each decoding sequence gets room for its next token. When the pool is empty, the running sequence that is last in rank
   (lowest class, then latest arrival) gives its blocks back and waits again; it keeps its tokens and recomputes them.
3. Chunks are cut: decodes first, then prefills in the order of the profile, until the budget is used up.

Progress is certain: the best-ranked running sequence can always evict all others, and `max_len` keeps it within the pool.
Lowering `max_num_seqs` stops admission until enough have ended; nobody is preempted for it. When more sequences decode
than the budget has tokens, they take turns.

An executor that computes steps before they are scheduled (`tokens_ahead`) needs room for tokens that nobody has seen yet:
decoding sequences get their next block that much earlier, as long as the blocks below the watermark stay free. While prompts
are left over it is told the next step along with each one (`foresee`), for which admission lets in the prompts of both.

A sequence that ends while its step is in flight keeps its blocks until `commit`, since the executor may still write there.
"""

from collections import defaultdict

from headway_engine.core import batching, slack
from headway_engine.core.backlog import Backlog
from headway_engine.core.batch import Batch, Chunk, StepFailure, StepResult
from headway_engine.core.batching import QueueView
from headway_engine.core.blocks import BlockPool
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.cuts import Cut, Rules, cut_prompts, prompts_left
from headway_engine.core.deadlines import Deadlines
from headway_engine.core.events import StepEvent
from headway_engine.core.foresee import CutStep, foresee
from headway_engine.core.limits import Limits, Profile
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.metrics import Metrics
from headway_engine.core.request import FinishReason, Priority, Request, RequestId
from headway_engine.core.room import find_room
from headway_engine.core.sequence import Ends, Phase, Sequence
from headway_engine.core.step_time import StepTime
from headway_engine.core.waiting import WaitingQueue

# Share of the pool that admission leaves free for the growth of what runs already. Without it the pool fills with prompts
# and the first decodes preempt them again; engines that admit up to 1.0 lose 10 to 20 % of their throughput to that.
WATERMARK = 0.1

# Tokens of a step by class and the moment of the token before: hundreds of sequences share a few gaps.
Gaps = defaultdict[tuple[Priority, float], int]


class Scheduler:
    """The state of all requests in flight. Used by one thread."""

    def __init__(
        self, pool: BlockPool, limits: Limits, max_model_len: int, eos_token_ids: frozenset[int], tokens_ahead: int = 0
    ) -> None:
        self.pool = pool
        self._tokens_ahead = tokens_ahead
        self.limits = limits
        self.metrics = Metrics()
        self.max_len = min(max_model_len, pool.capacity_tokens)
        self._ends = Ends(self.max_len, eos_token_ids)
        self._watermark = int(pool.num_blocks * WATERMARK)
        self._waiting = WaitingQueue()
        self._running: dict[int, Sequence] = {}
        self._in_flight: dict[int, Sequence] = {}
        self._by_request: dict[RequestId, Sequence] = {}
        self._deadlines = Deadlines()
        self._next_id = 0
        self._turn = 0  # whose turn it is when more sequences decode than the budget has tokens
        self._group = 0  # waiting sequences that were dispatched and found no room yet
        self._newest_s = 0.0  # the latest arrival
        self._step_time = StepTime()
        self._scheduled_s = 0.0  # when the step in flight was scheduled
        self._blocked = False  # the latest step left a sequence waiting
        self._foreseen: dict[int, Cut] = {}  # the step that the executor was told along with the latest one
        self._kv_tokens = 0
        self.backlog = Backlog()

    # ---- what readers ask -------------------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait, preempted ones included."""
        return len(self._waiting)

    @property
    def num_waiting_batch(self) -> int:
        """Of those, requests of the batch class."""
        return self._waiting.num_batch

    @property
    def kv_tokens(self) -> int:
        """Tokens held in KV blocks; those that sequences share count once, in whole blocks."""
        return min(self._kv_tokens, (self.pool.num_blocks - self.pool.num_free) * self.pool.block_size)

    @property
    def open_slots(self) -> int:
        """Waiting sequences that the next step could start, as far as known: none while some found no room."""
        blocked = self._blocked and len(self._waiting)
        return 0 if blocked else max(0, self.limits.max_num_seqs - len(self._running))

    def running(self) -> tuple[Sequence, ...]:
        """The running sequences, for checks and tests."""
        return tuple(self._running.values())

    def waiting(self) -> tuple[Sequence, ...]:
        """The waiting sequences in order of service, for checks and tests."""
        return tuple(self._waiting)

    def next_due(self, now: float) -> float | None:
        """When `schedule` or `expire` has something to do: `now` for at once, None for not before the next call of `add`."""
        if self._running:
            return now
        queue = self._queue(now)
        if batching.group(self.limits, queue, self._group):
            return now
        due = (self._deadlines.next_s(), batching.next_dispatch_s(self.limits, queue))
        return min((moment for moment in due if moment is not None), default=None)

    # ---- between two steps ------------------------------------------------------------------------------------------

    def add(self, request: Request, seed: int) -> None:
        """Queue a request that `admission` has passed.

        Raises:
            ValueError: it can never run, or its id is in flight; admission should have seen that.
        """
        prompt_len = len(request.prompt_ids)
        if not 1 <= prompt_len < self.max_len or request.request_id in self._by_request:
            raise ValueError(f"request {request.request_id}: {prompt_len} prompt tokens, or its id is in flight")
        sequence = Sequence.of(request, self._next_id, seed, self.limits.default_class, self._ends)
        self._next_id += 1
        self._newest_s = max(self._newest_s, request.arrival_s)
        self._waiting.push(sequence)
        self._by_request[request.request_id] = sequence
        self.backlog.add(sequence, prompt_len)
        self._deadlines.add(sequence)

    def abort(self, request_id: RequestId, reason: FinishReason, now: float) -> StepEvent | None:
        """End a request wherever it is; None when it is not in flight."""
        sequence = self._by_request.get(request_id)
        return None if sequence is None else self._end(sequence, reason, now)

    def give_back(self, request_ids: frozenset[RequestId], most: int, now: float) -> list[StepEvent]:
        """End batch requests among these that have not begun, in order of service, so that another engine can take them."""
        named = [one for one in self._waiting if one.request.request_id in request_ids and one.movable][:most]
        return [self._end(one, FinishReason.GIVEN_BACK, now) for one in named]

    def expire(self, now: float) -> list[StepEvent]:
        """End the requests whose deadline has passed."""
        return [self._end(sequence, FinishReason.DEADLINE, now) for sequence in self._deadlines.pop_due(now)]

    # ---- the step ---------------------------------------------------------------------------------------------------

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None when there is nothing to compute yet.

        Raises:
            RuntimeError: the previous batch has not been committed.
        """
        if self._in_flight:
            raise RuntimeError("schedule was called before commit")
        self._waiting.age(now, slack.to_age(self.limits, self._running.values(), self._waiting, now))
        self._waiting.part(now, self.limits)
        self._group = batching.group(self.limits, self._queue(now), self._group)
        if not self._running and not self._group:
            return None
        decoding = [sequence for sequence in self._running.values() if sequence.decoding]
        over_budget = self._admit(decoding)
        kept, self._foreseen = self._foreseen, {}
        cuts = list(kept.values()) or self._cut(decoding)
        chunks = [self._launch(cut, now) for cut in cuts]
        self._scheduled_s = now
        if not chunks:
            return None
        left = prompts_left(self._running.values(), cuts)
        prompts_follow = over_budget or bool(left)
        ahead: tuple[Chunk, ...] = ()
        if self._tokens_ahead and prompts_follow:
            step = CutStep(cuts, chunks, self._running, left, self.backlog.tokens)
            foreseen = foresee(step, self.pool.block_size, self._rules)
            self._foreseen, ahead = foreseen.cuts, foreseen.chunks
        return Batch(tuple(chunks), prompts_follow, ahead)

    def commit(self, batch: Batch, results: tuple[StepResult, ...], now: float) -> list[StepEvent]:
        """Take the tokens of the step in; returns what happened to each request."""
        events: list[StepEvent] = []
        sampled = iter(results)
        gaps: Gaps = defaultdict(int)
        in_flight, self._in_flight = self._in_flight, {}
        self.metrics.steps += 1
        prompt_tokens = batch.prompt_tokens
        squares = batch.prompt_squares if prompt_tokens else 0
        self._step_time.observe(prompt_tokens, squares, (now - self._scheduled_s) * 1000)
        for chunk in batch.chunks:
            sequence = in_flight[chunk.sequence_id]
            result = next(sampled) if chunk.sample else None
            if sequence.phase is Phase.ENDED:
                self._release(sequence)
                continue
            self._advance(sequence, len(chunk.token_ids))
            if isinstance(result, StepFailure):
                self.pool.forget(sequence.blocks)
                events.append(self._end(sequence, FinishReason.ERROR, now, result.message))
            elif result is not None:
                events.append(self._take_token(sequence, result, now, gaps))
        for (kind, last_token_s), tokens in gaps.items():
            self.metrics.next_tokens(kind, now - last_token_s, tokens)
        return events

    def fail(self, batch: Batch, message: str, now: float) -> list[StepEvent]:
        """The step as a whole failed: each request of it ends with ERROR, the others go on."""
        in_flight, self._in_flight = self._in_flight, {}
        events = []
        for chunk in batch.chunks:
            sequence = in_flight[chunk.sequence_id]
            if sequence.phase is Phase.ENDED:
                self._release(sequence)
            else:
                events.append(self._end(sequence, FinishReason.ERROR, now, message))
        return events

    # ---- inside -----------------------------------------------------------------------------------------------------

    @property
    def _rules(self) -> Rules:
        return Rules(self.limits, self._step_time)

    def _queue(self, now: float) -> QueueView:
        oldest_s = self._waiting.oldest_arrival_s() or 0.0
        return QueueView(now, len(self._waiting), len(self._running), self.backlog.tokens, oldest_s, self._newest_s)

    def _admit(self, decoding: list[Sequence]) -> bool:
        """Move waiting sequences to the running ones while there is room; whether the budget was what ended it."""
        self._blocked = batch_joined = False
        if not self._waiting:
            return False
        pool = self.pool
        growing = sum(len(s.tokens) > len(s.blocks) * pool.block_size for s in decoding)
        # LOW_TAIL lets everybody in whom slots and blocks hold: the shortest prompt goes first among those who run.
        low_tail = self.limits.profile is Profile.LOW_TAIL
        budget = (self.limits.max_num_batched_tokens - len(decoding)) * (1 + self._tokens_ahead)
        # Backlog of running prefills by class: those of a worse class do not stand in the way of a better one.
        ahead = [0 for _ in Priority]
        if len(self._running) > len(decoding):
            for sequence in self._running.values():
                ahead[sequence.priority] += sequence.backlog
        while (head := self._waiting.head()) is not None:
            if not self._group:
                self._blocked = True
                return False
            priority = head.priority
            over_budget = not low_tail and sum(ahead[: priority + 1]) >= budget
            in_turn = not head.in_slack or slack.admits(
                self.limits, self._running.values(), self._step_time, batch_joined
            )
            if over_budget or not in_turn or not self._take_room(head, growing):
                self._blocked = True
                return over_budget
            self._waiting.serve(head)
            self._group -= 1
            head.phase = Phase.RUNNING
            self._running[head.sequence_id] = head
            ahead[priority] += head.backlog
            batch_joined |= head.in_slack
        return False

    def _take_room(self, head: Sequence, growing: int) -> bool:
        """Give `head` its blocks if it can run now."""
        slots_short = len(self._running) + 1 - self.limits.max_num_seqs
        if slots_short > 1:  # the limit was lowered, and that alone never preempts
            return False
        reserve = growing + self._watermark if self._running else 0
        if head.in_slack and self._running:
            reserve += slack.kept_free(self.pool.num_blocks, self.limits)
        room = find_room(self.pool, self._running.values(), head, slots_short, reserve)
        if room is None:
            return False
        for sequence in room.victims:
            self._preempt(sequence)
        self.pool.share(room.shared)
        head.take_blocks(room.shared, self.pool.allocate(room.own), room.prefix, self.pool.block_size)
        self.backlog.add(head, -head.num_computed)
        self._kv_tokens += head.num_computed
        return True

    def _grow(self, sequence: Sequence) -> None:
        """Give a decoding sequence one more block, preempting from the end of the ranks when none is free."""
        while self.pool.num_free == 0:
            last = max(self._running.values(), key=lambda s: s.rank)
            self._preempt(last)
            if last is sequence:
                return
        sequence.blocks += self.pool.allocate(1)

    def _grow_ahead(self, sequence: Sequence) -> None:
        """Give a sequence that samples in this step room for tokens after that one, if nobody else is short of it."""
        pool, tokens = self.pool, len(sequence.tokens) + self._tokens_ahead
        if tokens <= len(sequence.blocks) * pool.block_size:  # in most steps
            return
        wanted = pool.blocks_for(min(tokens, self.max_len)) - len(sequence.blocks)
        if wanted > 0 and pool.num_free - wanted >= self._watermark:
            sequence.blocks += pool.allocate(wanted)

    def _cut(self, decoding: list[Sequence]) -> list[Cut]:
        """A step that was not foreseen: decodes, and prompts in the room that they leave."""
        budget = batching.step_tokens(self.limits, self.backlog.tokens, len(decoding))
        if len(decoding) > budget:
            first = self._turn % len(decoding)
            decoding = (decoding[first:] + decoding[:first])[:budget]
            self._turn += budget
        block_size = self.pool.block_size
        for sequence in decoding:
            if len(sequence.tokens) > len(sequence.blocks) * block_size and sequence.decoding:
                self._grow(sequence)
        # A sequence preempted above does not decode any more, also when it has been admitted again.
        decoding = [sequence for sequence in decoding if sequence.decoding]
        prompts = cut_prompts(prompts_left(self._running.values()), decoding, budget - len(decoding), self._rules)
        return [*(Cut(sequence, 1) for sequence in decoding), *prompts]

    def _launch(self, cut: Cut, now: float) -> Chunk:
        sequence, num_tokens = cut
        self._in_flight[sequence.sequence_id] = sequence
        if sequence.started_s is None:
            sequence.started_s = now
            kind, request = sequence.workload_class, sequence.request
            waited_s, cached = now - request.arrival_s, sequence.cached_tokens or 0
            self.metrics.prefill_began(kind, waited_s, len(request.prompt_ids), cached)
        if self._tokens_ahead and sequence.num_computed + num_tokens == len(sequence.tokens):
            self._grow_ahead(sequence)
        return sequence.chunk(num_tokens)

    def _advance(self, sequence: Sequence, num_tokens: int) -> None:
        """Count tokens that are now in the cache."""
        if not sequence.decoding:
            self.backlog.add(sequence, -num_tokens)
        sequence.num_computed += num_tokens
        self._kv_tokens += num_tokens
        sequence.register(self.pool)

    def _take_token(self, sequence: Sequence, result: int | TokenLogprobs, now: float, gaps: Gaps) -> StepEvent:
        token, logprobs = (result, None) if isinstance(result, int) else (result.chosen.token_id, result)
        self.metrics.generation_tokens += 1
        if sequence.first_token_s is None:
            sequence.first_token_s = now
            started = now if sequence.started_s is None else sequence.started_s
            self.metrics.first_token(sequence.workload_class, now - sequence.request.arrival_s, now - started)
        else:
            gaps[sequence.workload_class, sequence.last_token_s] += 1
        sequence.last_token_s = now
        try:
            reason, problem = sequence.accept(token), ""
        except ConstraintError as error:
            reason, problem = FinishReason.ERROR, str(error)
        if reason is not None:
            return self._end(sequence, reason, now, problem)._replace(token_ids=(token,), logprobs=logprobs)
        return StepEvent(sequence.request.request_id, (token,), None, logprobs)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's slot and blocks; it waits before its class and recomputes."""
        self._leave(sequence)
        self.backlog.add(sequence, -sequence.backlog)
        self._release(sequence)
        self.backlog.add(sequence, sequence.backlog)
        sequence.phase = Phase.WAITING
        self._waiting.push(sequence)
        self.metrics.preemptions += 1

    def _end(self, sequence: Sequence, reason: FinishReason, now: float, error: str = "") -> StepEvent:
        """Take a sequence out of every structure; its blocks wait for `commit` when its step is in flight."""
        if sequence.phase is Phase.RUNNING:
            self._leave(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.phase = Phase.ENDED
        self.backlog.add(sequence, -sequence.backlog)
        request = sequence.request
        del self._by_request[request.request_id]
        if sequence.sequence_id not in self._in_flight:
            self._release(sequence)
        self._deadlines.tidy(len(self._by_request))
        self.metrics.ended(sequence.workload_class, reason, now - request.arrival_s, self.limits.batch_deadline_ms)
        return StepEvent(request.request_id, (), sequence.finished(reason, now, error))

    def _leave(self, sequence: Sequence) -> None:
        """Run no more; what was launched ahead for it is computed in vain."""
        del self._running[sequence.sequence_id]
        self._foreseen.pop(sequence.sequence_id, None)

    def _release(self, sequence: Sequence) -> None:
        self._kv_tokens -= sequence.num_computed
        self.pool.free(sequence.forget_cache())
