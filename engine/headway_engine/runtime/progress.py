"""Says how far the loading of a model is: a bar on a terminal, log lines elsewhere.

loading /models/llama   [##########..............]  6.4 of 16.1 GB   42 %   2.1 GB/s
"""

import logging
import time
from collections.abc import Callable
from typing import TextIO

logger = logging.getLogger(__name__)

# A bar is drawn at most so often; a line is logged at most so often. A model that is there before the first one needs none.
_BAR_S, _LINE_S = 0.1, 5.0
_WIDTH = 24
_GB = 1e9


class LoadProgress:
    """Counts bytes of weights up to their total."""

    def __init__(
        self, name: str, total_bytes: int, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin.

        Args:
            name: what is loaded.
            total_bytes: how much there is.
            stream: where a bar goes when it is a terminal.
            clock: seconds.
        """
        self._name, self._total, self._clock = name, max(1, total_bytes), clock
        self._stream = stream if stream.isatty() else None
        self._started_s = self._said_s = clock()
        self._done = 0

    def advance(self, count: int) -> None:
        """So many bytes more are in their place."""
        self._done += count
        now = self._clock()
        if now - self._said_s < (_LINE_S if self._stream is None else _BAR_S):
            return
        self._said_s = now
        if self._stream is None:
            logger.info("loading %s: %s", self._name, self._figures(now))
        else:
            self._draw(now)

    def finish(self) -> None:
        """Everything is loaded: the bar stays full, and one line says how long it took."""
        now = self._clock()
        if self._stream is not None:
            self._done = self._total
            self._draw(now)
            self._stream.write("\n")
            self._stream.flush()
        logger.info("loaded %s: %.1f GB of weights in %.1f s", self._name, self._total / _GB, now - self._started_s)

    def _draw(self, now: float) -> None:
        if self._stream is not None:
            full = int(_WIDTH * self._share())
            bar = "#" * full + "." * (_WIDTH - full)
            self._stream.write(f"\rloading {self._name} [{bar}] {self._figures(now)} ")
            self._stream.flush()

    def _share(self) -> float:
        # Headers and padding are part of the files and not of the tensors; dequantized tensors are larger.
        return min(1.0, self._done / self._total)

    def _figures(self, now: float) -> str:
        share, seconds = self._share(), max(1e-3, now - self._started_s)
        done = share * self._total / _GB
        return f"{done:.1f} of {self._total / _GB:.1f} GB, {share:.0%}, {done / seconds:.1f} GB/s"
