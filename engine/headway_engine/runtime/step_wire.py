"""What the engine's two processes say to each other, over a pair of sockets that nobody else has.

A message is its length and a pickle. Pickle is safe here, since both ends are one program, and quick: plain values cost well
under a microsecond each. Times are of `time.monotonic`, which all processes of a machine share.
"""

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headway_engine.core.constraint import ConstraintError, ConstraintSpec
from headway_engine.core.limits import RuntimeConfigState
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import Finished, Rejected, RequestId
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loaded import LoadedModel, ModelFacts
from headway_engine.runtime.loop import LoopState, OfRequests
from headway_engine.runtime.steps import LimitsChange

LENGTH: Final = struct.Struct("!I")
# The step process sends a frame at least this often, s.
HEARTBEAT_S: Final = 1.0

LoadModel = Callable[[EngineConfig], LoadedModel]

# ---- to the step process --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """The first message. `load` is None where `config.model` names files."""

    config: EngineConfig
    load: LoadModel | None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Compile the form of a request's answer; answered under `number`."""

    number: int
    request_id: RequestId
    spec: ConstraintSpec


@dataclass(frozen=True, slots=True)
class Forget:
    """The prepared request will not come."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """Change limits; answered under `number`."""

    number: int
    change: LimitsChange


@dataclass(frozen=True, slots=True)
class Stop:
    """End every request with ABORT, say so, and end."""


# ---- from the step process ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; frames follow.

    Attributes:
        model_info: facts about it.
        tokenizer: as the contents of a `tokenizer.json`.
        eos_token_ids: the model's own end-of-sequence tokens.
        chat_template: Jinja source, empty when there is none.
        capacity_tokens: what the KV cache holds.
        state: the first figures.
    """

    model_info: ModelFacts
    tokenizer: str
    eos_token_ids: tuple[int, ...]
    chat_template: str
    capacity_tokens: int
    state: LoopState


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """The model cannot be served. Nothing follows."""

    error: Exception


Answer = RuntimeConfigState | Rejected | ConstraintError | None
# The fields of a `StepEvent`.
EventRow = tuple[RequestId, tuple[int, ...], Finished | None, TokenLogprobs | None]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is new since the last one.

    Attributes:
        state: the figures, which include the events.
        events: of one or more steps, in order.
        answers: by the number of the message that asked.
        trouble: what is wrong with the step loop; "" while it makes progress.
        failure: the loop has ended by a bug, and so has every request; "" otherwise.
    """

    state: LoopState
    events: list[EventRow]
    answers: list[tuple[int, Answer]]
    trouble: str
    failure: str


ToSteps = Load | OfRequests | Prepare | Forget | ChangeLimits | Stop
FromSteps = Ready | NotLoaded | Frame


def packed(message: ToSteps | FromSteps) -> bytes:
    """A message as it is sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body
