"""What the scheduler says of requests after each step."""

from typing import NamedTuple

from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import Finished, RequestId


class StepEvent(NamedTuple):
    """What happened to one request: a new token, its end, or both; and the token's candidates where they are wanted.

    A tuple, like a chunk: there is one for each sequence and step.
    """

    request_id: RequestId
    token_ids: tuple[int, ...]
    finished: Finished | None
    logprobs: TokenLogprobs | None = None
