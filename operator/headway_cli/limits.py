"""Numbers of the command line have limits, which a refusal names."""

import argparse
from collections.abc import Mapping

from headway_cli.errors import CliError

ABOVE_0, NO_BOUND = 1e-9, float("inf")


def check(given: argparse.Namespace, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuse what lies outside; `bounds`: least and most by the flag's name in the namespace. NaN lies nowhere.

    Raises:
        CliError: naming the flag and its limits.
    """
    for name, (least, most) in bounds.items():
        value = getattr(given, name)
        if value is not None and not least <= value <= most:
            raise CliError(f"--{name.replace('_', '-')} must be {_range(least, most)}, got {value}")


def _range(least: float, most: float) -> str:
    low = "above 0" if least == ABOVE_0 else f"at least {least}"
    return low if most == NO_BOUND else f"{low} and at most {most}"
