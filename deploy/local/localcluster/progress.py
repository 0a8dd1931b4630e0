"""One line that says what is going on and for how long: rewritten in place on a terminal, repeated in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

PLAIN_INTERVAL_S = 15.0


def elapsed(seconds: float) -> str:
    """Minutes and seconds, e.g. `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclass(slots=True)
class Progress:
    """Reports one step at a time to `stream`."""

    stream: TextIO
    tty: bool
    clock: Callable[[], float] = time.monotonic
    _label: str = field(default="", init=False)
    _started: float = field(default=0.0, init=False)
    _shown: float = field(default=0.0, init=False)
    _width: int = field(default=0, init=False)

    def start(self, label: str) -> None:
        """Begins a step and shows it at once."""
        self._label, self._started, self._shown = label, self.clock(), self.clock()
        self._write(f"{label} ... 0:00", final=not self.tty)

    def tick(self, detail: str = "") -> None:
        """Refreshes the line: each call on a terminal, every 15 s elsewhere."""
        now = self.clock()
        if not self.tty and now - self._shown < PLAIN_INTERVAL_S:
            return
        self._shown = now
        suffix = f"  {detail}" if detail else ""
        self._write(f"{self._label} ... {elapsed(now - self._started)}{suffix}", final=not self.tty)

    def done(self) -> None:
        """Ends the step with its total time."""
        self._write(f"{self._label}: done in {elapsed(self.clock() - self._started)}", final=True)

    def failed(self) -> None:
        """Ends the step without a success; the error itself is printed by the caller."""
        self._write(f"{self._label}: failed after {elapsed(self.clock() - self._started)}", final=True)

    def _write(self, text: str, *, final: bool) -> None:
        if not self.tty:
            self.stream.write(text + "\n")
        else:
            self.stream.write("\r" + text.ljust(self._width) + ("\n" if final else ""))
            self._width = 0 if final else len(text)
        self.stream.flush()
