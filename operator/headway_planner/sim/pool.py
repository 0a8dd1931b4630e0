"""The replicas of a fleet: ordered, starting, serving, draining, gone; what each is charged; and who gets a request.

A request goes to the replica that has the least to do, as far as a gateway knows it; ties in turn:

    load = requests in flight + prompt tokens of those without a first token / REQUEST_TOKENS

What is in flight alone is blind to a prompt of 39,000 tokens that all behind it wait for. Requests with a deadline do not
count where they only fill slack. A drain takes no new request and cuts none. When replicas are removed, those go first that did
not start yet (youngest first), then those with the fewest requests.
"""

from collections import deque
from enum import StrEnum
from heapq import heappop, heappush

from headway_planner.model import BatchLimits
from headway_planner.sim.replica import Replica
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Counters


class Phase(StrEnum):
    """Where a replica stands."""

    PENDING = "pending"  # ordered; too many others are starting
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Member:
    """A replica and its life."""

    __slots__ = ("gone_s", "offered", "ordered_s", "phase", "replica", "start_s")

    def __init__(self, replica: Replica, ordered_s: float) -> None:
        self.replica = replica
        self.phase = Phase.PENDING
        self.ordered_s = ordered_s
        self.gone_s: float | None = None
        self.start_s = 0.0  # from its order to its service
        self.offered = -1  # the load that the router knows of; -1: it was chosen since


class Pool:
    """All replicas of a run. Times are given by the caller."""

    def __init__(self, setup: Setup, counters: Counters) -> None:
        self._setup = setup
        self._counters = counters
        self._free: list[tuple[int, int, Member]] = []  # (load, turn, member), stale when the load changed
        self._turn = 0
        self._waiting: deque[Member] = deque()  # PENDING, in order
        self.members: list[Member] = []
        self.limits = setup.limits
        self.ready: dict[int, Member] = {}
        self.starting: dict[int, Member] = {}

    @property
    def ordered(self) -> int:
        """Replicas that serve or will."""
        return len(self.ready) + len(self.starting) + len(self._waiting)

    def order(self, now_s: float) -> Member:
        """One more replica; it starts when `next_start` hands it out."""
        uid = len(self.members)
        replica = Replica(uid, self._setup.model, self.limits, self._counters, self._setup.max_run, self._setup.due_s)
        replica.reserve = self._setup.batch_reserve
        replica.set_limits(self.limits)
        member = Member(replica, now_s)
        self.members.append(member)
        self._waiting.append(member)
        return member

    def next_start(self) -> Member | None:
        """The next pending replica that may start now."""
        if not self._waiting or len(self.starting) >= self._setup.starts_at_once:
            return None
        member = self._waiting.popleft()
        member.phase = Phase.STARTING
        self.starting[member.replica.uid] = member
        return member

    def serve(self, member: Member, start_s: float) -> None:
        """A replica is ready, so long after it was ordered."""
        member.start_s = start_s
        self.starting.pop(member.replica.uid, None)
        if member in self._waiting:
            self._waiting.remove(member)
        member.phase = Phase.READY
        self.ready[member.replica.uid] = member
        self.offer(member)

    def remove(self, now_s: float) -> bool:
        """Take one replica out of the count, the one that is missed least. False: there is none left."""
        if self._waiting:
            self._end(self._waiting.pop(), now_s)
        elif self.starting:
            self._end(self.starting.pop(next(reversed(self.starting))), now_s)
        elif self.ready:
            member = min(self.ready.values(), key=lambda one: (one.replica.in_flight, -one.replica.uid))
            del self.ready[member.replica.uid]
            member.phase = Phase.DRAINING
            self.settle(member, now_s)
        else:
            return False
        return True

    def settle(self, member: Member, now_s: float) -> None:
        """A drain ends with its last request."""
        if member.phase is Phase.DRAINING and member.replica.in_flight == 0:
            self._end(member, now_s)

    def fail(self, member: Member, now_s: float) -> None:
        """A replica dies."""
        self.ready.pop(member.replica.uid, None)
        self._end(member, now_s)

    def set_limits(self, limits: BatchLimits) -> None:
        """New limits for all replicas, those that start later included."""
        if limits != self.limits:
            self.limits = limits
            for member in self.members:
                if member.phase is not Phase.GONE:
                    member.replica.set_limits(limits)

    def offer(self, member: Member) -> None:
        """Enter a replica into the order of the router, if its load changed."""
        load = member.replica.load
        if load != member.offered:
            member.offered = load
            self._turn += 1
            heappush(self._free, (load, self._turn, member))

    def choose(self) -> Member | None:
        """The ready replica with the least load; it leaves the order until it is offered again."""
        free = self._free
        while free:
            load, _, member = heappop(free)
            if member.phase is Phase.READY and member.replica.load == load:
                member.offered = -1
                return member
        return None

    def slack(self) -> Member | None:
        """The ready replica with the fewest requests of those that may take one with a deadline."""
        able = [member for member in self.ready.values() if member.replica.has_slack]
        return min(able, key=lambda one: (one.replica.in_flight, one.replica.uid), default=None)

    def replica_seconds(self, end_s: float) -> float:
        """Charged time: from the order until gone; after `end_s` only while a replica has work."""
        total = 0.0
        for member in self.members:
            until = max(end_s, member.replica.last_busy_s)
            gone_s = until if member.gone_s is None else min(member.gone_s, until)
            total += max(0.0, gone_s - min(member.ordered_s, gone_s))
        return total

    def _end(self, member: Member, now_s: float) -> None:
        member.phase = Phase.GONE
        member.gone_s = now_s
