"""The command line of the engine's benchmarks: `--case NAME` picks a module, which declares the other flags.

A case is a module with

    DESCRIPTION: str                                            one line for --list
    def add_arguments(parser: argparse.ArgumentParser) -> None   its flags
    def run(options: argparse.Namespace) -> Report               measures

It is imported only when it runs, and the import needs no more than torch, triton, transformers and numpy. Progress goes to standard error, the table (or with --json the JSON lines) to standard
output.
"""

import argparse
import importlib
import math
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from headway_engine.bench import report
from headway_engine.bench.report import Report
from headway_engine.runtime.config import ModelLoadError

# Name of the case -> its module.
CASES = {
    "batching": "headway_engine.bench.batching",
    "cpu": "headway_engine.bench.beside_transformers",
    "decode": "headway_engine.bench.decode",
    "prefill": "headway_engine.bench.prefill",
    "offline256": "headway_engine.bench.offline",
    "stalled": "headway_engine.bench.stalled",
}
DEFAULT_FOLDER = Path("benchmarks/results")


class Case(Protocol):
    """What a module of a case has; see above."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its flags."""

    def run(self, options: argparse.Namespace) -> Report:
        """Measure."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one case; ends the process with 0, 1 (it could not be measured) or 2 (the command line is wrong)."""
    # As `headway engine serve` runs; read when a case imports torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # The case's own flags are not known before its module is.
    chosen, _ = _parser(add_help=False).parse_known_args(arguments)
    if chosen.list:
        for name in CASES:
            sys.stdout.write(f"{name:<12} {load(name).DESCRIPTION}\n")
        return
    if chosen.case is None:
        parser.parse_args(arguments)  # --help ends here
        parser.error("--case NAME is required; --list names the cases")
    case = load(chosen.case)
    case.add_arguments(parser)
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        # No benchmark counts or lasts nothing; some would find that out after minutes.
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < math.inf:
            parser.error(f"--{name} must be a finite number above 0, got {value}")
    try:
        result = case.run(options)
    except ModelLoadError as error:
        sys.stderr.write(f"headway bench engine: {error}\n")
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        sys.stderr.write(f"headway bench engine: --case {chosen.case} needs {package}, which is not installed\n")
        sys.exit(1)
    now = datetime.now(UTC)
    lines = report.as_lines(result, report.environment(), now)
    sys.stdout.write(lines if options.json else report.as_table(result))
    if options.save is not None:
        sys.stderr.write(f"saved to {report.save(lines, result, now, options.save)}\n")


def load(name: str) -> Case:
    """The module of a case."""
    return cast("Case", importlib.import_module(CASES[name]))


def _parser(add_help: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway bench engine", description="Measure the engine.", add_help=add_help)
    parser.add_argument("--case", choices=sorted(CASES), help="what to measure")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=DEFAULT_FOLDER,
        metavar="FOLDER",
        help=f"also write the JSON lines to a file in FOLDER (default: {DEFAULT_FOLDER})",
    )
    return parser


if __name__ == "__main__":
    main()
