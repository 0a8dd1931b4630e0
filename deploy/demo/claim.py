"""One demo or end-to-end run at a time on a cluster of this machine: a second one says who is there, and waits.

Both use the cluster that is up, and a run of the tests takes it down at its end. The claim is a lock of the kernel on a
file of the user, held by the process: it ends with it, however that ends. What the file says is for people only. A cluster
of the user's own (`current`) is claimed by nobody: nobody here starts or stops it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from steps import ROOT, say


@contextmanager
def claimed(provider: str, what: str) -> Iterator[None]:
    """Have the cluster of a provider alone. `what` the caller is, for those that come meanwhile."""
    if provider == "current":
        yield
        return
    path = _file(provider)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Neither truncated, nor handed on to children: a cluster's processes would hold the lock for ever.
    with path.open("a+") as file:
        _take(file, provider)
        file.truncate(0)
        file.write(f"{what} (process {os.getpid()}, in {ROOT}) uses it since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _take(file: TextIO, provider: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another run uses it"
        say(f"cluster {provider}: {holder}. Waiting for its end; Ctrl-C gives up")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def _file(provider: str) -> Path:
    """Not in the cluster's state folder: clusters of different folders use the same names on the host."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "headway" / f"claim-{provider}"
