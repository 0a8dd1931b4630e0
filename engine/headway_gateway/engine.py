"""One engine as the gateway sees it: what it said last, and what this gateway did with it since. Pure but for its client.

A request goes where the least work is before it, of what this gateway has sent:

    work = answers that run + requests without a token + prompt tokens / TOKENS_PER_REQUEST

Prompt tokens are those of the requests without a token and of the request itself, less what the engine's prefix cache probably holds
of them. An engine serves better classes first, so requests without a token count for their own class and for worse ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headway_gateway.prefixes import Prefixes
from headway_gateway.prompt import Prompt
from headway_rpc import pb
from headway_rpc.client import EngineClient

# So many prompt tokens that nobody has computed yet delay others like one request more. In the simulator 50 to 500 do alike.
TOKENS_PER_REQUEST = 200
CLASSES = (pb.PRIORITY_REALTIME, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH)  # better ones first


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that an engine has and that has no token yet.

    Attributes:
        arrived_s: when it came to the gateway.
        stays_until_s: batch work is not moved before: it was a moment ago.
        tokens: of its prompt, less what was probably cached there.
    """

    arrived_s: float
    stays_until_s: float
    tokens: int = 0


class Unanswered:
    """The requests of one class that have no token, in order of their coming, and the tokens of their prompts."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests: dict[str, Waiting] = {}
        self.tokens = 0

    def add(self, request_id: str, waiting: Waiting) -> None:
        """One more."""
        self.requests[request_id] = waiting
        self.tokens += waiting.tokens

    def remove(self, request_id: str) -> None:
        """One less, if it is here."""
        waiting = self.requests.pop(request_id, None)
        if waiting is not None:
            self.tokens -= waiting.tokens


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
        slots: requests that it runs at once; one more waits until another ends.
        boot_id: of its process.
        prefixes: what its prefix cache probably holds.
        room: batch requests that would find a slot at once, below 0: so many more wait than could begin; counted on since its
            last answer. None: it does not tell.
        promised: of its room, for requests that were asked back from other engines.
        unanswered: this gateway's requests that it has and that have no token, by class.
    """

    client: EngineClient
    info: pb.ModelInfo | None = None
    in_flight: int = 0
    turn: int = 0
    missed: int = 0
    full_until_s: float = 0.0
    model: str = ""
    default_class: "pb.Priority.ValueType" = pb.PRIORITY_UNSPECIFIED
    slots: int = 0
    boot_id: str = ""
    prefixes: Prefixes = field(default_factory=Prefixes)
    room: int | None = None
    promised: int = 0
    unanswered: "dict[pb.Priority.ValueType, Unanswered]" = field(
        default_factory=lambda: {kind: Unanswered() for kind in CLASSES}
    )

    @property
    def waiting(self) -> dict[str, Waiting]:
        """Batch requests without a token, by id, in order of their coming."""
        return self.unanswered[pb.PRIORITY_BATCH].requests

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
        if loads.boot_id != self.boot_id:
            self.boot_id = loads.boot_id
            self.prefixes.forget()
        self.prefixes.make_room(loads.max_total_num_tokens)
        self.slots = loads.max_running_requests
        self.room = loads.room_for_batch if loads.HasField("room_for_batch") else None
        self.default_class = loads.default_class
        self.promised = 0

    def class_of(self, request: pb.GenerateRequest) -> "pb.Priority.ValueType":
        """The class that it serves `request` in."""
        return request.priority or self.default_class or pb.PRIORITY_INTERACTIVE

    def work_before(self, request: pb.GenerateRequest, prompt: Prompt) -> float:
        """How much it does until the first token of `request`, in requests."""
        kind = self.class_of(request)
        count, tokens = self.in_flight, prompt.tokens
        for other, unanswered in self.unanswered.items():
            if other <= kind:
                tokens += unanswered.tokens
            else:
                count -= len(unanswered.requests)
        if count < self.slots:  # who waits for an end there is served sooner where everything is computed again
            tokens -= self.prefixes.cached(prompt)
        return count + tokens / TOKENS_PER_REQUEST

    def entrust(self, request: pb.GenerateRequest, waiting: Waiting) -> None:
        """Count a request that is sent to it."""
        self.in_flight += 1
        self.unanswered[self.class_of(request)].add(request.request_id, waiting)
        if request.waited_ms:
            self.promised = max(0, self.promised - 1)
        if self.room is not None:
            self.room -= 1

    def begin(self, request: pb.GenerateRequest) -> None:
        """A request has begun to be answered."""
        for unanswered in self.unanswered.values():  # the class of those that name none may have changed since
            unanswered.remove(request.request_id)

    def release(self, request: pb.GenerateRequest) -> None:
        """Forget a request that has ended there, in whichever way."""
        self.in_flight -= 1
        self.begin(request)
        if self.room is not None:
            self.room += 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom a request wants.

    Attributes:
        request: where it is batch work, room counts before work.
        prompt: of it.
        last: who gave it back, for some room that was promised, and shall only have it again when nobody else takes it.
    """

    request: pb.GenerateRequest
    prompt: Prompt
    last: Engine | None = None


def pick(engines: Iterable[Engine], tried: Sequence[Engine], now: float, wanted: Wanted) -> Engine | None:
    """The engine with the least work before it that is up and not tried yet; among equals the one chosen longest ago.

    Batch work goes to one that has room for it, where there is one.
    """

    def rank(engine: Engine) -> tuple[bool, bool, bool, float, int]:
        room = (engine.room or 0) > 0 if wanted.last is not None else engine.spare > 0
        crowded = engine.class_of(wanted.request) == pb.PRIORITY_BATCH and not room
        work = engine.work_before(wanted.request, wanted.prompt)
        return engine is wanted.last, now < engine.full_until_s, crowded, work, engine.turn

    open_ = [engine for engine in engines if engine.info is not None and engine not in tried]
    return min(open_, key=rank, default=None)
