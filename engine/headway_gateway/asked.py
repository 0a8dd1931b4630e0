"""A request on its way through the engines: who refused it, who gave it back, and since when it waits."""

import uuid
from dataclasses import dataclass, field

from headway_gateway.balance import STAY_S
from headway_gateway.engine import Engine, Waiting, Wanted
from headway_gateway.errors import Failure, unavailable
from headway_gateway.prompt import Prompt, measured
from headway_rpc import pb


@dataclass(slots=True)
class Asked:
    """A request on its way.

    Attributes:
        request: as it came.
        arrived_s: when.
        until_s: when nobody waits for its answer any more.
        tried: engines that did not take it.
        refusals: why.
        giver: the engine that gave it back last.
        taken: an engine had taken it, so it waits since it came and is no new one to the next.
        prompt: its length and beginning.
    """

    request: pb.GenerateRequest
    arrived_s: float
    until_s: float
    tried: list[Engine] = field(default_factory=list)
    refusals: list[Failure] = field(default_factory=list)
    giver: Engine | None = None
    taken: bool = False
    prompt: Prompt = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = measured(self.request)

    @property
    def wanted(self) -> Wanted:
        """For the choice of an engine."""
        return Wanted(self.request, self.prompt, self.giver)

    def message(self, now: float) -> pb.GenerateRequest:
        """What the next engine gets."""
        message = pb.GenerateRequest()
        message.CopyFrom(self.request)
        message.request_id = uuid.uuid4().hex
        message.waited_ms = max(1, round(1000 * (now - self.arrived_s))) if self.taken else 0
        return message

    def waiting(self, now: float, cached: int) -> Waiting:
        """How it waits in the next engine, which has so many tokens of its prompt."""
        stays_until_s = now + STAY_S if self.giver is not None else now
        return Waiting(self.arrived_s, stays_until_s, self.prompt.tokens - cached)

    def came_back(self, engine: Engine, end: pb.GenerateComplete) -> None:
        """The engine that had taken it did not begin it."""
        self.taken = True
        self.refusals.append(unavailable("the engine that had the request did not begin it"))
        if end.finish_reason == pb.GIVEN_BACK:
            # Somebody has room, and who refused may take it now; if nobody does, it goes back to where it was.
            self.tried, self.giver = [], engine
