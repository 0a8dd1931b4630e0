"""An event loop whose clock jumps: when nothing is ready to run, time moves to the next timer at once."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _InstantSelector(selectors.DefaultSelector):
    """Polls without waiting and books the wait as time that has passed."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing left to run and no timer set: the test would hang")
            self.now_s += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._instant = _InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now_s

    def skip(self, seconds: float) -> None:
        self._instant.now_s += seconds


def jump(seconds: float) -> None:
    """Have the running loop find that so much time has passed in which it did not run."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, _VirtualLoop):
        raise TypeError("only virtual time jumps")
    loop.skip(seconds)


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(coroutine)
