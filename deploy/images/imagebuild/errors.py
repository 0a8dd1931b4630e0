"""The one exception whose text is meant for the user."""

from __future__ import annotations


class BuildError(Exception):
    """A cause and its cure in plain words; the command line prints it without a traceback."""
