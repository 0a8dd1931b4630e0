"""`headway bench engine`: measures the engine itself, without a network, in a process of its own.

The command never imports the engine (nor torch): it starts `python -m headway_engine.bench` with the arguments as they
are, whose parser knows the cases and their flags.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

from headway_cli.errors import CliError

MODULE = "headway_engine.bench"
# What the extra `engine` brings; asked for by name, so that a missing one costs a sentence and not a traceback.
NEEDED = ("headway_engine", "torch", "transformers")


def command(arguments: Sequence[str]) -> int:
    """Run it; returns its exit code.

    Raises:
        CliError: the engine is not installed.
    """
    require()
    return subprocess.run([sys.executable, "-m", MODULE, *arguments], check=False).returncode  # noqa: S603 - our own module


def require() -> None:
    """Make sure that the engine can run.

    Raises:
        CliError: the engine is not installed.
    """
    missing = next((name for name in NEEDED if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise CliError(f"{missing} is not installed; pip install 'headway[engine]' brings it")
