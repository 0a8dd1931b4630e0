"""Has a form compiled in a process of its own first, because a compiler that does not come back cannot be stopped in a thread.

The library bounds its work by counts, and misses some: thirty patterns that shall all hold for one string keep it busy for ever,
and it takes 50 MB a second meanwhile. Here a form has `MOST_S` and `MOST_BYTES`; one that needs more costs the process
(`form_process.py`), which the next form gets anew, and is refused.
"""

import logging
import os
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Protocol

from headway_engine.core.constraint import ConstraintError, ConstraintSpec

log = logging.getLogger(__name__)

# The largest forms that the library's own bounds let pass take 0.1 s of a CPU that is not shared.
MOST_S = 5.0
# Of data. A vocabulary takes a tenth of it, a form that passes a fiftieth.
MOST_BYTES = 1 << 30
# To read a vocabulary of 150,000 tokens beside other work.
START_S = 60.0
_MODULE = "headway_engine.runtime.form_process"


class Vocabulary(Protocol):
    """The part of a tokenizer that forms need."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The model's own end-of-sequence tokens."""

    def serialized(self) -> str:
        """The whole tokenizer as the `tokenizers` library writes it."""


class FormTrial:
    """One process at a time, started for the first form. `check` belongs to one thread; `close` to any."""

    def __init__(self, tokenizer: Vocabulary, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # of the three below
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._closed = False

    def check(self, spec: ConstraintSpec) -> None:
        """Come back when the form can be compiled.

        Raises:
            ConstraintError: it cannot, or not within the bounds.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send(spec)
            if not pipe.poll(MOST_S):
                self._end()
                raise _refused(spec, f"it takes more than {MOST_S:g} s to compile")
            problem: ConstraintError | None = pipe.recv()
        except (OSError, EOFError):
            self._end()
            raise _refused(spec, f"compiling it took more than {MOST_BYTES >> 20} MiB, or broke the compiler") from None
        if problem is not None:
            raise problem

    def close(self) -> None:
        """End the process, also in the midst of a form."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            self._pipe = None  # not closed: `check` may be reading it, in the other thread
            if process is not None:
                process.kill()
                process.wait()

    def _start(self) -> Connection:
        with self._lock:
            if self._closed:
                raise ConstraintError("the engine has stopped")
            ours, theirs = Pipe()
            with theirs:
                arguments = (sys.executable, "-m", _MODULE, str(theirs.fileno()))
                self._process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], env=_environment())  # noqa: S603 - ourselves
            self._pipe = ours
        problem: ConstraintError | None = ConstraintError("the process that tries forms did not start")
        try:
            ours.send((self._tokenizer.serialized(), self._tokenizer.eos_token_ids, self._vocab_size))
            if ours.poll(START_S):
                problem = ours.recv()
        except (OSError, EOFError):
            log.warning("the process that tries forms ended before its first one")
        if problem is not None:
            self._end()
            raise problem
        return ours


def _environment() -> dict[str, str]:
    """The process must find what this one can import. A thread for each CPU would take data that a form may need."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}


def _refused(spec: ConstraintSpec, why: str) -> ConstraintError:
    return ConstraintError(f"sampling_params.{spec.kind}: {why}")
