"""One engine as the gateway sees it: what it said last, and what this gateway did with it since. Pure but for its client."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headway_rpc import pb
from headway_rpc.client import EngineClient


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch request that an engine has and that has no token yet.

    Attributes:
        arrived_s: when it came to the gateway.
        stays_until_s: it is not moved before: it was a moment ago.
    """

    arrived_s: float
    stays_until_s: float


@dataclass(slots=True)
class Engine:
    """One engine.

    Attributes:
        client: its connection.
        info: what it serves; None while it does not answer.
        in_flight: this gateway's requests that it works on.
        turn: when it was chosen last, to take turns among equals.
        missed: probes without an answer since the last one with.
        full_until_s: it refused a request and asked not to be tried before this moment; others come first.
        model: what it served last.
        default_class: of requests that name none.
        room: batch requests that would find a slot at once, below 0: so many more wait than could begin; counted on since its
            last answer. None: it does not tell.
        promised: of its room, for requests that were asked back from other engines.
        waiting: this gateway's batch requests that it has and that have no token, by id, in order of their coming.
    """

    client: EngineClient
    info: pb.ModelInfo | None = None
    in_flight: int = 0
    turn: int = 0
    missed: int = 0
    full_until_s: float = 0.0
    model: str = ""
    default_class: "pb.Priority.ValueType" = pb.PRIORITY_UNSPECIFIED
    room: int | None = None
    promised: int = 0
    waiting: dict[str, Waiting] = field(default_factory=dict)

    @property
    def spare(self) -> int:
        """Batch requests that would find a slot and that nobody has been promised."""
        return max(0, (self.room or 0) - self.promised)

    @property
    def queued(self) -> int:
        """How many requests more wait in it than could begin."""
        return max(0, -(self.room or 0))

    def take_word(self, loads: pb.Loads) -> None:
        """What it says of itself now."""
        self.room = loads.room_for_batch if loads.HasField("room_for_batch") else None
        self.default_class = loads.default_class
        self.promised = 0

    def serves_as_batch(self, request: pb.GenerateRequest) -> bool:
        """Whether it is batch work there."""
        kind = request.priority
        return (self.default_class if kind == pb.PRIORITY_UNSPECIFIED else kind) == pb.PRIORITY_BATCH

    def entrust(self, request: pb.GenerateRequest, waiting: Waiting) -> None:
        """Count a request that is sent to it."""
        self.in_flight += 1
        if self.serves_as_batch(request):
            self.waiting[request.request_id] = waiting
        if request.waited_ms:
            self.promised = max(0, self.promised - 1)
        if self.room is not None:
            self.room -= 1

    def release(self, request: pb.GenerateRequest) -> None:
        """Forget a request that has ended there, in whichever way."""
        self.in_flight -= 1
        self.waiting.pop(request.request_id, None)
        if self.room is not None:
            self.room += 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom a request wants.

    Attributes:
        request: where it is batch work, room counts before the number in flight.
        last: who gave it back, for some room that was promised, and shall only have it again when nobody else takes it.
    """

    request: pb.GenerateRequest
    last: Engine | None = None


def pick(engines: Iterable[Engine], tried: Sequence[Engine], now: float, wanted: Wanted) -> Engine | None:
    """The least busy engine that is up and not tried yet; among equals the one that was chosen longest ago.

    Batch work goes to one that has room for it, where there is one.
    """

    def rank(engine: Engine) -> tuple[bool, bool, bool, int, int]:
        room = (engine.room or 0) > 0 if wanted.last is not None else engine.spare > 0
        crowded = engine.serves_as_batch(wanted.request) and not room
        return engine is wanted.last, now < engine.full_until_s, crowded, engine.in_flight, engine.turn

    open_ = [engine for engine in engines if engine.info is not None and engine not in tried]
    return min(open_, key=rank, default=None)
