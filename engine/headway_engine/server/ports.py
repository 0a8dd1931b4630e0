"""What the server needs of the runtime: the boundary of ARCHITECTURE.md as protocols.

The server imports the runtime's plain data but not the engine itself: its ports open before torch is loaded, and its
tests run against a fake that keeps the same boundary.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import Finished, FinishReason, Rejected, Request
from headway_engine.runtime.loaded import ModelInfo
from headway_engine.runtime.stats import Health, Loads, StatsSnapshot


class StreamItemView(Protocol):
    """What one engine step brought for one request."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Tokens since the last item."""

    @property
    def text(self) -> str:
        """Their text, as far as it can be shown."""

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        """One for each token where the request wants them, else none."""

    @property
    def finished(self) -> Finished | None:
        """Set on the last item."""


class TokenStreamPort(Protocol):
    """The answer to one admitted request; ends after the item with `finished`."""

    def __aiter__(self) -> AsyncIterator[StreamItemView]:
        """The items, in order."""

    def cancel(self) -> None:
        """The client went away. Has no effect after the end."""


class EnginePort(Protocol):
    """`runtime.engine.AsyncEngine` as the server sees it; every method is safe on the event loop."""

    async def submit(self, request: Request) -> TokenStreamPort | Rejected:
        """Admit a request, or say why not."""

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        """End a request; False when none has this id."""

    def give_back(self, request_ids: Sequence[str], most: int) -> None:
        """End at most so many batch requests among these that have not begun, so that another engine can take them."""

    def model_info(self) -> ModelInfo:
        """The loaded model."""

    def loads(self) -> Loads:
        """Gauges of the moment."""

    def stats(self) -> StatsSnapshot:
        """Counters and histograms since boot."""

    def runtime_config(self) -> RuntimeConfigState:
        """The live limits."""

    async def update_limits(
        self, patch: LimitsPatch, lease_s: int, expected_revision: int | None
    ) -> RuntimeConfigState | Rejected:
        """Change the limits between two steps, or say why not."""

    def begin_drain(self) -> None:
        """Refuse new requests from now on."""

    async def wait_idle(self, timeout_s: float | None) -> bool:
        """True when nothing is in flight, False when the time is up."""

    async def wait_ended(self) -> None:
        """Until the step loop has ended, and every stream with it: only a new process helps."""

    def health(self) -> Health:
        """Liveness and readiness; safe from any thread."""

    async def stop(self) -> None:
        """End the step loop and every stream."""
