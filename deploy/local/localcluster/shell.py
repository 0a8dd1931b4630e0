"""Running the host's own tools, with their words in the error."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import ClusterError

COMMAND_TIMEOUT_S = 60.0
POLL_S = 0.05


def run(argv: Sequence[str | Path], *, stdin: str | None = None, check: bool = True) -> str:
    """Runs a short command and returns its output; a failure becomes a ClusterError that names it."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError as err:
        raise ClusterError(f"{words[0]} is not installed; run `cluster.py deps`") from err
    except subprocess.TimeoutExpired as err:
        raise ClusterError(f"`{shlex.join(words)}` did not end within {COMMAND_TIMEOUT_S:.0f} s") from err
    if check and done.returncode != 0:
        words_said = done.stderr.strip() or done.stdout.strip() or "no output"
        raise ClusterError(f"`{shlex.join(words)}` failed ({done.returncode}): {words_said}")
    return done.stdout


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Polls `condition` until it holds; False when it never did."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
