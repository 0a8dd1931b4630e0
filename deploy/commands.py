"""docs/reference/commands.md from the parsers: `make docs`. It asks command and engine, so it belongs to neither.

The page is what each command answers to `--help`, so it cannot name a flag that is not there. Commands that belong to other
programs (`engine serve`, `bench engine`) parse for themselves and are asked there; `operator run` has settings instead of
flags, which are read from the operator's own record.
"""

import argparse
import dataclasses
import inspect
import os
import sys
from collections.abc import Iterator

from headway_cli.main import build_parser
from headway_engine.settings import add_arguments
from headway_gateway import settings as gateway_settings
from headway_operator.settings import Settings

COLUMNS = "110"  # argparse folds lines to the terminal; the page must not depend on whose terminal that is
INTRODUCTION = """<!-- Generated from the parsers by `make docs`. Do not edit. -->
# Commands

Every command and flag of `headway`. Exit codes: 0 done, 1 the command failed (one line on standard error says why), 2 the
command line is wrong, 130 interrupted. `engine serve` has exit codes of its own: 0 after a clean drain, 2 bad settings,
3 the model cannot be loaded, 4 its step loop has ended by itself.
"""
ENGINE_NOTE = """Every flag has an environment twin: `--max-num-seqs` is `HEADWAY_MAX_NUM_SEQS`. The flag wins.
"""
OPERATOR_NOTE = """Takes no flags. Its settings are environment variables, which the chart sets. Without a default means: must be set.
"""
BENCH_ENGINE_NOTE = """`headway bench engine --list` names the cases; each adds flags of its own, shown by
`headway bench engine --case NAME --help`. It needs the extra `engine`.
"""


def render() -> str:
    """The whole page."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        return "\n".join([INTRODUCTION, *_sections(build_parser())]) + "\n"
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    match parser.prog:
        case "headway engine serve":
            engine = argparse.ArgumentParser(prog=parser.prog, description="Serve one model over gRPC.")
            add_arguments(engine)
            yield _help(engine)
            yield ENGINE_NOTE
        case "headway gateway serve":
            gateway = argparse.ArgumentParser(prog=parser.prog, description="OpenAI's API in front of engines.")
            gateway_settings.add_arguments(gateway)
            yield _help(gateway)
        case "headway operator run":
            yield f"## {parser.prog}\n\n{OPERATOR_NOTE}"
            yield _settings()
        case "headway bench engine":
            yield f"## {parser.prog}\n\n{BENCH_ENGINE_NOTE}"
        case _:
            children = _children(parser)
            if not children or parser.prog == "headway":
                yield _help(parser)
            for child in children:
                yield from _sections(child)


def _children(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    # argparse has no public way to a parser's subcommands.
    return [
        child
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for child in action.choices.values()
    ]


def _help(parser: argparse.ArgumentParser) -> str:
    return f"## {parser.prog}\n\n```\n{parser.format_help().rstrip()}\n```\n"


def _settings() -> str:
    """The operator's variables: the docstring names each, the record knows the defaults."""
    documented = inspect.getdoc(Settings) or ""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        line = next(line for line in documented.splitlines() if line.strip().startswith(f"{field.name}:"))
        meaning, variable = line.split(":", 1)[1].strip().rstrip(".").rsplit(" (", 1)
        default = "" if field.default is dataclasses.MISSING else f"`{str(field.default) or repr('')}`"
        rows.append(f"| `{variable.rstrip(')')}` | {default} | {meaning[0].upper()}{meaning[1:]}. |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
