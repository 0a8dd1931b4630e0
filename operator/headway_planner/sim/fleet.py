"""One run: arrivals, replicas, scrapes and the policy on one queue of events.

Events at equal times keep the order in which they were entered; an arrival goes before them. A replica has one valid
wake-up; when a request shortens its segment the old one stays in the queue and is recognised by its time.

Where batch work only fills slack (`Setup.batch_reserve`), requests with a deadline wait at the gateway, first come first
served, and go one by one to engines that have a slot for them.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from headway_planner.sim.chance import Chance
from headway_planner.sim.jobs import Arrival, End, Job
from headway_planner.sim.outcome import Outcome, Scaling
from headway_planner.sim.policy import Policy
from headway_planner.sim.pool import Member, Phase, Pool
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Counters, Counts, DeferredSample, FleetView, ReplicaSample, Sample

KEEP_S = 700.0  # samples older than this are forgotten; no window is longer
_WAKE, _READY, _FAIL, _SCRAPE, _TICK = range(5)


def simulate(setup: Setup, arrivals: Sequence[Arrival], policy: Policy, seed: int) -> Outcome:
    """Run the arrivals, sorted by time, through a fleet under the policy."""
    return _Run(setup, arrivals, policy, seed).run()


class _Run:
    def __init__(self, setup: Setup, arrivals: Sequence[Arrival], policy: Policy, seed: int) -> None:
        self._setup = setup
        self._policy = policy
        self._jobs = [Job(uid, arrival) for uid, arrival in enumerate(arrivals)]
        chance = Chance(seed)
        self._starts, self._failures, self._scrapes = chance.split(1), chance.split(2), chance.split(3)
        self._before = chance.split(4)
        self._pools = setup.batch_reserve > 0
        self._counters = Counters(apart=self._pools)
        self._pool = Pool(setup, self._counters)
        self._events: list[tuple[float, int, int, Member | None]] = []
        self._order = 0
        self._held: deque[Job] = deque()
        self._deferred: deque[Job] = deque()
        self._deferred_tokens = 0
        self._open = len(self._jobs)
        self._travelling: deque[Sample] = deque()
        self._seen: deque[Sample] = deque()
        self._desired = min(max(setup.initial, setup.min_replicas), setup.max_replicas)
        self._changes: list[Scaling] = []
        self._limit_changes = 0

    def run(self) -> Outcome:
        for _ in range(self._desired):
            member = self._pool.order(0.0)
            # They started once, before the run: a policy that looks at its pods knows how long that took.
            self._pool.serve(member, self._before.lognormal(self._setup.start_delay_s, self._setup.start_sigma))
            self._plan_failure(member, 0.0)
        self._enter(0.0, _SCRAPE)
        self._enter(0.0, _TICK)
        end_s = self._jobs[-1].arrival_s if self._jobs else 0.0
        stop_s = end_s + self._setup.patience_s
        self._loop(stop_s)
        for job in self._jobs:
            if job.end is None:
                job.close(End.EXPIRED, stop_s)
        return Outcome(
            jobs=self._jobs,
            end_s=end_s,
            replica_seconds=self._pool.replica_seconds(end_s),
            gpus=self._setup.model.gpus,
            changes=tuple(self._changes),
            limit_changes=self._limit_changes,
            preemptions=sum(member.replica.preemptions for member in self._pool.members),
        )

    def _loop(self, stop_s: float) -> None:
        jobs, events, count, position = self._jobs, self._events, len(self._jobs), 0
        while self._open:
            at_s, _, kind, member = events[0]
            if position < count and jobs[position].arrival_s <= at_s:
                self._arrive(jobs[position])
                position += 1
                continue
            heappop(events)
            if kind == _WAKE:
                if member is not None and member.replica.wake_s == at_s:
                    self._wake(member, at_s)
                continue
            if at_s > stop_s:
                return
            self._other(kind, member, at_s)

    def _other(self, kind: int, member: Member | None, now_s: float) -> None:
        if kind == _SCRAPE:
            self._scrape(now_s)
            self._enter(now_s + self._setup.sample_s, _SCRAPE)
        elif kind == _TICK:
            self._tick(now_s)
            self._enter(now_s + self._policy.tick_s, _TICK)
        elif member is not None and kind == _READY:
            if member.phase is Phase.STARTING:
                self._pool.serve(member, now_s - member.ordered_s)
                self._plan_failure(member, now_s)
                self._release(now_s)
                self._lend(member, now_s)
            self._start_pending(now_s)
        elif member is not None and member.phase in (Phase.READY, Phase.DRAINING):
            self._fail(member, now_s)

    def _enter(self, at_s: float, kind: int, member: Member | None = None) -> None:
        self._order += 1
        heappush(self._events, (at_s, self._order, kind, member))

    def _arrive(self, job: Job) -> None:
        counters = self._counters
        _count_arrival(counters.fleet, job)
        if job.deferrable and counters.deferred is not None:
            _count_arrival(counters.deferred, job)
            self._deferred.append(job)
            self._deferred_tokens += job.need
            self._lend(self._pool.slack(), job.arrival_s)
        elif self._held or not self._route(job, job.arrival_s):
            self._held.append(job)

    def _route(self, job: Job, now_s: float) -> bool:
        """Hand the request to a replica; False when none is ready."""
        member = self._pool.choose()
        if member is None:
            return False
        self._submit(member, job, now_s)
        return True

    def _lend(self, member: Member | None, now_s: float) -> None:
        """The requests with a deadline that waited longest, as long as the replica has slack."""
        while self._deferred and member is not None and member.phase is Phase.READY and member.replica.has_slack:
            job = self._deferred.popleft()
            self._deferred_tokens -= job.need
            self._submit(member, job, now_s)

    def _submit(self, member: Member, job: Job, now_s: float) -> None:
        replica = member.replica
        before_s = replica.wake_s
        if not replica.submit(job, now_s):
            job.close(End.REJECTED, now_s)
            self._open -= 1
        if replica.wake_s != before_s and replica.wake_s is not None:
            self._enter(replica.wake_s, _WAKE, member)
        self._pool.offer(member)

    def _release(self, now_s: float) -> None:
        while self._held and self._route(self._held[0], now_s):
            self._held.popleft()

    def _wake(self, member: Member, now_s: float) -> None:
        ended = member.replica.advance(now_s)
        if member.replica.wake_s is not None:
            self._enter(member.replica.wake_s, _WAKE, member)
        self._open -= len(ended)
        if member.phase is Phase.READY:
            self._pool.offer(member)
        elif ended:
            self._pool.settle(member, now_s)
        if self._deferred:
            self._lend(member, now_s)

    def _fail(self, member: Member, now_s: float) -> None:
        orphans = member.replica.evict_all()
        self._pool.fail(member, now_s)
        for job in orphans:
            if job.first_s >= 0:
                job.close(End.CUT, now_s)
                self._open -= 1
                continue
            job.done, job.admitted_s = 0, -1.0
            if job.deferrable and self._pools:
                self._deferred.appendleft(job)
                self._deferred_tokens += job.need
                continue
            if self._held or not self._route(job, now_s):
                self._held.append(job)
        self._reconcile(now_s)

    def _plan_failure(self, member: Member, now_s: float) -> None:
        if self._setup.mtbf_s > 0:
            self._enter(now_s + self._failures.exponential(self._setup.mtbf_s), _FAIL, member)

    def _reconcile(self, now_s: float) -> None:
        while self._pool.ordered < self._desired:
            self._pool.order(now_s)
        while self._pool.ordered > self._desired and self._pool.remove(now_s):
            pass
        self._start_pending(now_s)

    def _start_pending(self, now_s: float) -> None:
        while (member := self._pool.next_start()) is not None:
            delay_s = self._starts.lognormal(self._setup.start_delay_s, self._setup.start_sigma)
            self._enter(now_s + delay_s, _READY, member)

    def _tick(self, now_s: float) -> None:
        newest_s = now_s - self._policy.lag_s
        while self._travelling and self._travelling[0].at_s <= newest_s:
            self._seen.append(self._travelling.popleft())
        if not self._seen:
            return
        while self._seen[0].at_s < newest_s - KEEP_S:
            self._seen.popleft()
        ready = len(self._pool.ready)
        pods = (self._desired, ready, self._pool.ordered - ready)
        starts = tuple(member.start_s for member in self._pool.ready.values())
        decision = self._policy.decide(FleetView(self._seen, now_s, pods, self._pool.limits, starts))
        if decision.limits is not None and decision.limits != self._pool.limits:
            self._pool.set_limits(decision.limits)
            self._limit_changes += 1
        count = max(decision.replicas, self._desired) if now_s < self._setup.settle_s else decision.replicas
        if count != self._desired:
            self._changes.append(Scaling(now_s, self._desired, count, decision.reason))
            self._desired = count
        self._reconcile(now_s)

    def _scrape(self, now_s: float) -> None:
        found = []
        for member in self._pool.ready.values():
            if self._setup.scrape_loss and self._scrapes.uniform() < self._setup.scrape_loss:
                continue
            replica = member.replica
            running = replica.running
            gauges = (running, replica.in_flight - running, replica.kv_usage, replica.queued_tokens)
            deferred = replica.deferred if self._pools else None
            found.append(ReplicaSample(*(self._blurred(gauges) if self._setup.noise else gauges), deferred))
        counters, waiting = self._counters, len(self._deferred)
        apart = counters.deferred
        self._travelling.append(
            Sample(
                at_s=now_s,
                serving=len(self._pool.ready),
                replicas=tuple(found),
                held=len(self._held) + waiting,
                counts=counters.fleet.copy(),
                deferred=None if apart is None else DeferredSample(waiting, self._deferred_tokens, apart.copy()),
            )
        )

    def _blurred(self, gauges: tuple[int, int, float, int]) -> tuple[int, int, float, int]:
        running, waiting, kv_usage, queued = (
            value * self._scrapes.lognormal(1.0, self._setup.noise) for value in gauges
        )
        return round(running), round(waiting), min(1.0, kv_usage), round(queued)


def _count_arrival(counts: Counts, job: Job) -> None:
    counts.arrivals += 1
    counts.input_tokens += job.inputs
    counts.input_squares += job.inputs * job.inputs
