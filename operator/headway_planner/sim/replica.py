"""One engine replica: continuous batching with chunked prefill, a KV limit and preemption by recompute.

Time passes in segments. A segment is one step that prefills, or a run of identical decode steps up to the next event that
can change the batch: a sequence ends, the KV cache fills, or a request arrives that can be admitted (then the run is
cut at the end of the step under way). Sequences that decode are never touched one by one: each knows the step of its end.

Admission goes by class, inside a class by `waiting.py`, one partial prompt per class. Batch sequences
give way, by recompute, to a higher class that finds no slot or no KV; out of KV, the youngest of the lowest class does.
Requests with a deadline are admitted only into slack: they leave a share of the slots and of the KV cache free (`lend`).

Who comes while step n runs is computed in step n + 1. An engine that runs ahead of its scheduler (`StepModel.ahead`) has that
one on its device already:

    step n + 1 has prompts left over from step n    it is fixed since step n began: the newcomer is in step n + 2, and the
                                                    decodes and prompts of both are one pass over the weights
    it has decodes only                             the newcomer's prompt is computed in it, after them, in a pass of its own

In both cases a token is seen at the end of its step, since the host waits for step n while step n + 1 runs.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

from headway_planner.model import BatchLimits
from headway_planner.sim.jobs import End, Job, Rank
from headway_planner.sim.setup import NEVER_DUE
from headway_planner.sim.signals import Counters, Counts, DeferredGauges, bucket
from headway_planner.sim.waiting import Line
from headway_planner.steps import Chunks, StepModel, run_time, steps_within

REQUEST_TOKENS = 200  # of a prompt without a first token weigh like one request; 50 to 500 make no difference
MAX_RUN = 256  # decode steps of one segment: the counters of a long run must not arrive late
_BATCH = int(Rank.BATCH)


class Replica:
    """One replica. The fleet calls `submit` and `advance`; `wake_s` is the end of the current segment, None when idle."""

    __slots__ = (
        "_apart", "_batch_running", "_chunks", "_context", "_counts", "_decoding", "_ended", "_ends", "_first_s", "_foreseen",
        "_growth_s", "_kv_limit", "_kv_slack", "_lent_decoding", "_lent_queued", "_lent_running", "_lines", "_max_run", "_model", "_order", "_partials", "_reserved", "_seqs", "_seqs_slack", "_step_no",
        "_steps", "_t0", "_tokens", "in_flight", "last_busy_s", "lent", "load", "preemptions", "queued_tokens", "reserve", "uid",
        "wake_s",
    )  # fmt: skip

    def __init__(
        self,
        uid: int,
        model: StepModel,
        limits: BatchLimits,
        counters: Counters,
        max_run: int = MAX_RUN,
        due_s: Sequence[float] = NEVER_DUE,
    ) -> None:
        self.uid = uid
        self._model = model
        self._counts = counters.fleet
        self._apart = counters.deferred
        self._kv_limit = model.kv_tokens
        self._max_run = max_run
        self._lines = tuple([Line(one) for one in due_s])
        self._decoding: dict[int, Job] = {}
        self._ends: list[tuple[int, int, Job]] = []  # (step, order, job), stale when the job says another step
        self._order = 0
        self._ended: list[Job] = []
        self._context = 0  # KV tokens of the decoding sequences
        self._reserved = 0  # KV tokens of prompts under way
        self._partials = 0
        self._batch_running = 0
        self._step_no = 0
        self._t0 = 0.0
        self._steps = 0  # of the current segment
        self._first_s = self._growth_s = 0.0
        self._chunks: list[tuple[Job, int]] | None = None
        self._lent_decoding = self._lent_running = self._lent_queued = 0
        self.lent = 0  # requests with a deadline, of those in flight
        self.reserve = 0.0  # share of slots and KV that they leave free
        self._foreseen: list[tuple[Job, int]] = []  # prompts of the next step, fixed when this one began
        self.set_limits(limits)
        self.wake_s: float | None = None
        self.in_flight = 0
        self.load = 0  # that the router sees: `REQUEST_TOKENS` for each request, and its prompt until the first token
        self.queued_tokens = 0
        self.last_busy_s = 0.0
        self.preemptions = 0

    @property
    def running(self) -> int:
        """Sequences that decode or are being prefilled."""
        return len(self._decoding) + self._partials

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, at the begin of the segment."""
        return (self._context + self._reserved) / self._kv_limit

    def set_limits(self, limits: BatchLimits) -> None:
        """Limits hold from the next segment; a lower cap lets sequences end, it stops none."""
        self._seqs = limits.seqs
        self._tokens = limits.tokens
        self._seqs_slack = limits.seqs - int(self.reserve * limits.seqs)
        self._kv_slack = int((1 - self.reserve) * self._kv_limit)

    @property
    def deferred(self) -> DeferredGauges:
        """The requests with a deadline."""
        return DeferredGauges(self._lent_running, self.lent - self._lent_running, self._lent_queued)

    @property
    def has_slack(self) -> bool:
        """Whether one more request with a deadline may be sent here: none waits, and there is a slot for it."""
        return not len(self._lines[_BATCH]) and self.running < self._seqs_slack

    def submit(self, job: Job, now_s: float) -> bool:
        """Queue a request. False: it can never fit into the KV cache."""
        if job.inputs + job.outputs > self._kv_limit:
            return False
        self._lines[job.rank].push(job)
        self.in_flight += 1
        self.queued_tokens += job.need
        if job.deferrable:
            self.lent += 1
            self._lent_queued += job.need
        if not (job.deferrable and self.reserve):  # what only fills slack does not count
            self.load += REQUEST_TOKENS + job.inputs
        if self.wake_s is None:
            self._plan(now_s)
        elif self._chunks is None and self._admissible(job):
            self._cut(now_s)
        return True

    def advance(self, now_s: float) -> list[Job]:
        """Finish the segment that ends now, begin the next; returns the requests that ended."""
        self._ended = []
        steps, batch = self._steps, len(self._decoding)
        self._counts.steps += steps
        self._counts.busy_ms += (now_s - self._t0) * 1000
        if batch:
            self._decoded(steps, batch, (now_s - self._t0) * 1000 / steps, now_s)
        if self._chunks is not None:
            self._prefilled(self._chunks, now_s)
        self._plan(now_s)
        return self._ended

    def evict_all(self) -> list[Job]:
        """The replica dies: every request that it held, oldest first."""
        held = [*self._decoding.values(), *(job for line in self._lines for job in line.clear())]
        self._decoding.clear()
        self._ends.clear()
        self._chunks, self.wake_s, self.in_flight, self.queued_tokens, self.load = None, None, 0, 0, 0
        self._context = self._reserved = self._partials = self._batch_running = 0
        self._foreseen = []
        self.lent = self._lent_decoding = self._lent_running = self._lent_queued = 0
        return sorted(held, key=lambda job: job.uid)

    def _decoded(self, steps: int, batch: int, gap_ms: float, now_s: float) -> None:
        self._step_no = step_no = self._step_no + steps
        self._context += steps * batch
        counts, apart = self._counts, self._apart
        counts.output_tokens += steps * batch
        counts.itl[bucket(gap_ms)] += steps * batch
        if apart is not None and self._lent_decoding:
            apart.output_tokens += steps * self._lent_decoding
            apart.itl[bucket(gap_ms)] += steps * self._lent_decoding
        ends = self._ends
        while ends and ends[0][0] <= step_no:
            step, _, job = heappop(ends)
            if job.finish_step == step and job.uid in self._decoding:
                del self._decoding[job.uid]
                self._context -= job.inputs + job.outputs
                if job.rank == _BATCH:
                    self._batch_running -= 1
                if job.deferrable:
                    self._lent_decoding -= 1
                    self._lent_running -= 1
                self._finish(job, now_s)

    def _prefilled(self, chunks: list[tuple[Job, int]], now_s: float) -> None:
        counts = self._counts
        for job, chunk in chunks:
            job.done += chunk
            counts.prefilled_tokens += chunk
            self.queued_tokens -= chunk
            if job.deferrable:
                self._lent_queued -= chunk
            if job.done < job.need:
                continue
            self._lines[job.rank].begun.remove(job)
            self._partials -= 1
            self._reserved -= job.need
            first = job.first_s < 0
            if first:
                self._first_token(job, now_s)
            job.made += 1
            self._count_first(counts, job, now_s, first)
            if job.deferrable and self._apart is not None:
                self._count_first(self._apart, job, now_s, first)
            left = job.outputs - job.made
            if left <= 0:
                if job.rank == _BATCH:
                    self._batch_running -= 1
                if job.deferrable:
                    self._lent_running -= 1
                self._finish(job, now_s)
                continue
            if job.deferrable:
                self._lent_decoding += 1
            job.joined_step = self._step_no
            job.finish_step = self._step_no + left
            self._decoding[job.uid] = job
            self._context += job.inputs + job.made
            self._order += 1
            heappush(self._ends, (job.finish_step, self._order, job))

    def _first_token(self, job: Job, now_s: float) -> None:
        job.first_s = now_s + self._model.front_ms(len(self._decoding)) / 1000
        if not (job.deferrable and self.reserve):
            self.load -= job.inputs

    @staticmethod
    def _count_first(counts: Counts, job: Job, now_s: float, first: bool) -> None:
        """A token at the end of a prefill; the first one of the request unless it was computed again."""
        counts.output_tokens += 1
        if first:
            counts.ttft[bucket((job.first_s - job.arrival_s) * 1000)] += 1
            counts.prefill[bucket((now_s - job.admitted_s) * 1000)] += 1

    def _finish(self, job: Job, now_s: float) -> None:
        # The front hands a last token on as late as it does a first one.
        job.close(End.FINISHED, now_s + self._model.front_ms(len(self._decoding)) / 1000)
        self.in_flight -= 1
        if not (job.deferrable and self.reserve):
            self.load -= REQUEST_TOKENS
        self.last_busy_s = now_s
        counts = self._counts
        counts.finished += 1
        if job.deferrable:
            self.lent -= 1
            if self._apart is not None:
                self._apart.finished += 1
        if job.outputs > 1:
            counts.tpot[bucket((job.end_s - job.first_s) * 1000 / (job.outputs - 1))] += 1
        self._ended.append(job)

    def _plan(self, now_s: float) -> None:
        """Begin a segment: a step with prefill when a prompt can go on, else a run of decode steps, else idle."""
        self._t0 = now_s
        self._chunks = None
        self._keep_kv()
        if any(map(len, self._lines)):
            foreseen, ahead, decodes = self._foreseen, self._model.ahead, len(self._decoding)
            self._let_in((self._tokens - decodes) * (1 + ahead), now_s)
            chunks = foreseen or self._take(decodes, ())
            if chunks:
                self._chunks = chunks
                self._foreseen = self._take_next(chunks) if ahead and self._left(chunks) else []
                for job, _ in chunks:
                    if job.admitted_s < 0:
                        self._begun(job, now_s)
                self._steps = 1
                self.wake_s = now_s + self._mixed_ms(chunks, ahead and not foreseen) / 1000
                return
        if not self._decoding:
            self.wake_s = None
            return
        self._plan_run(now_s)

    def _plan_run(self, now_s: float) -> None:
        batch = len(self._decoding)
        ends = self._ends
        while ends[0][2].finish_step != ends[0][0] or ends[0][2].uid not in self._decoding:
            heappop(ends)
        steps = min(ends[0][0] - self._step_no, self._max_run)
        room = (self._kv_limit - self._context - self._reserved) // batch
        self._steps = steps = max(1, min(steps, room))
        self._first_s = self._model.decode_ms(batch, self._context) / 1000
        self._growth_s = self._model.att_dec_ctx_ms * batch / 1000
        self.wake_s = now_s + run_time(self._first_s, self._growth_s, steps)

    def _cut(self, now_s: float) -> None:
        """End the run of decode steps with the step under way."""
        steps = steps_within(self._first_s, self._growth_s, now_s - self._t0)
        if steps < self._steps:
            self._steps = steps
            self.wake_s = self._t0 + run_time(self._first_s, self._growth_s, steps)

    def _mixed_ms(self, chunks: list[tuple[Job, int]], apart: bool) -> float:
        tokens = squares = ended = 0
        for job, chunk in chunks:
            tokens += chunk
            squares += chunk * (2 * job.done + chunk)
            ended += job.done + chunk == job.need
        return self._model.step_ms(len(self._decoding), self._context, Chunks(tokens, squares, ended), apart=apart)

    def _admissible(self, job: Job) -> bool:
        if job.rank != _BATCH and self._batch_running:
            return True
        if job.deferrable and not self._in_slack(job):
            return False
        return self.running < self._seqs and len(self._decoding) < self._tokens and self._fits(job)

    def _fits(self, job: Job) -> bool:
        """Whether the prompt has room beside what runs, which grows by a token each in the step."""
        return self._context + self._reserved + job.need + self.running + 1 <= self._kv_limit

    def _in_slack(self, job: Job) -> bool:
        """Whether a request with a deadline leaves free what is kept for the others; alone it may have all."""
        held = self._context + self._reserved + job.need + self.running + 1
        return not self.running or (self.running < self._seqs_slack and held <= self._kv_slack)

    def _left(self, chunks: list[tuple[Job, int]]) -> bool:
        """Whether anybody waits for prompt tokens beside these chunks."""
        job, chunk = chunks[-1]
        return job.done + chunk < job.need or len(chunks) < sum(map(len, self._lines))

    def _take_next(self, chunks: list[tuple[Job, int]]) -> list[tuple[Job, int]]:
        """Chunks of the step after one with these, beside those who go on decoding and those whose prompt ends in it."""
        ends = self._step_no + 1
        decodes = sum(job.finish_step > ends for job in self._decoding.values())
        decodes += sum(job.done + chunk == job.need and job.made + 1 < job.outputs for job, chunk in chunks)
        return self._take(decodes, chunks)

    def _let_in(self, most: int, now_s: float) -> None:
        """Those begin that may, until so many prompt tokens are to be computed: those of all steps that are decided now."""
        wanted = 0
        for line in self._lines:
            line.part(now_s)
            wanted += sum([job.need - job.done for job in line.begun])
            while wanted < most and (head := line.head()) is not None and self._admit(head):
                line.begin(head)
                wanted += head.need

    def _take(self, decodes: int, before: Sequence[tuple[Job, int]]) -> list[tuple[Job, int]]:
        """Chunks of a step beside so many decodes, in order of class and arrival, after the chunks of the step before it."""
        chunks: list[tuple[Job, int]] = []
        room = self._tokens - decodes
        taken = {job.uid: chunk for job, chunk in before}
        for line in self._lines:
            for job in line.begun:
                chunk = min(room, job.need - job.done - taken.get(job.uid, 0))
                if chunk > 0:
                    chunks.append((job, chunk))
                    room -= chunk
        return chunks

    def _admit(self, job: Job) -> bool:
        if job.deferrable and not self._in_slack(job):
            return False
        while self.running >= self._seqs or not self._fits(job):
            if job.rank == _BATCH or not self._evict(_BATCH):
                return False
        self._partials += 1
        self._reserved += job.need
        if job.rank == _BATCH:
            self._batch_running += 1
        if job.deferrable:
            self._lent_running += 1
        return True

    def _begun(self, job: Job, now_s: float) -> None:
        """The first chunk of a request is computed."""
        job.admitted_s = now_s
        waited = bucket((now_s - job.arrival_s) * 1000)
        self._counts.queue_wait[waited] += 1
        if job.deferrable and self._apart is not None:
            self._apart.queue_wait[waited] += 1

    def _keep_kv(self) -> None:
        """Preempt until the next step fits: batch work first, then the youngest."""
        while self._decoding and self._context + self._reserved + len(self._decoding) > self._kv_limit:
            if not self._evict(_BATCH):
                self._evict(0)

    def _evict(self, least_rank: int) -> bool:
        """Take the youngest decoding sequence of the rank or a lower class off the batch; it is recomputed later."""
        if least_rank == _BATCH and not self._batch_running:
            return False
        victim = next((job for job in reversed(self._decoding.values()) if job.rank >= least_rank), None)
        if victim is None:
            return False
        del self._decoding[victim.uid]
        produced = victim.made + self._step_no - victim.joined_step
        self._context -= victim.inputs + produced
        victim.made, victim.finish_step = produced, -1
        victim.need, victim.done = victim.inputs + produced, 0
        self.queued_tokens += victim.need
        self.preemptions += 1
        if victim.rank == _BATCH:
            self._batch_running -= 1
        if victim.deferrable:
            self._lent_running -= 1
            self._lent_decoding -= 1
            self._lent_queued += victim.need
        self._lines[victim.rank].put_back(victim)
        return True
