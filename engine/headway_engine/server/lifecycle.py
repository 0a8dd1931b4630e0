"""The phase of the process, shared by the event loop and the HTTP thread: loading, serving, draining.

Whoever asks for a drain (SIGTERM, the Drain RPC) calls `start_drain`; it is idempotent. Reads are single attribute
loads, safe from any thread.
"""

from collections.abc import Callable
from enum import StrEnum

from headway_engine.core.request import Rejected, StatusCode
from headway_engine.server.ports import EnginePort

NOT_LOADED = Rejected(StatusCode.UNAVAILABLE, "the model is loading; nothing was started, retry later or elsewhere")


class Phase(StrEnum):
    """What the process is doing."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """Knows the engine once there is one, and whether requests are welcome."""

    def __init__(self) -> None:
        self._phase = Phase.LOADING
        self._engine: EnginePort | None = None
        self._on_change: list[Callable[[], None]] = []

    @property
    def engine(self) -> EnginePort | None:
        """The engine, once the model is loaded."""
        return self._engine

    @property
    def phase(self) -> Phase:
        """What the process is doing."""
        return self._phase

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop after each change of phase."""
        self._on_change.append(callback)

    def loaded(self, engine: EnginePort) -> None:
        """The model answers."""
        self._engine = engine
        self._enter(Phase.SERVING)

    def start_drain(self) -> None:
        """Stop admission; streams in flight go on."""
        if self._phase is Phase.DRAINING:
            return
        if self._engine is not None:
            self._engine.begin_drain()
        self._enter(Phase.DRAINING)

    def ready(self) -> tuple[bool, str]:
        """Whether requests are welcome, and if not why: the readiness probe."""
        if self._phase is not Phase.SERVING or self._engine is None:
            return False, self._phase.value
        health = self._engine.health()
        return health.ready, "ok" if health.ready else health.detail

    def alive(self) -> tuple[bool, str]:
        """False when only a restart helps: the liveness probe."""
        if self._engine is None:
            return True, self._phase.value
        health = self._engine.health()
        return health.alive, "ok" if health.alive else health.detail

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        for callback in self._on_change:
            callback()
