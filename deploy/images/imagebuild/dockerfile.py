"""Parses the subset of the Dockerfile language that our Dockerfiles use.

What is outside the subset is an error that names the line, never something silently ignored: an image built here
must be the image a container engine builds.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import BuildError

KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>[A-Za-z_]\w*))")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, continuation lines joined, variables not yet replaced."""

    name: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A `FROM` and what follows it."""

    name: str
    base: str
    line: int
    body: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The arguments before the first `FROM`, and the stages in order."""

    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A folder of the build machine that a RUN sees and the image does not keep."""

    id: str
    target: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Sources in the context or in another stage, and where they go."""

    sources: tuple[str, ...]
    target: str
    stage: str | None


def parse(text: str) -> Dockerfile:
    """Reads a Dockerfile; raises BuildError with the line of what it does not know."""
    arguments: list[Instruction] = []
    stages: list[tuple[Instruction, list[Instruction]]] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif instruction.name == "ARG":
            arguments.append(instruction)
        else:
            raise BuildError(f"line {instruction.line}: {instruction.name} before the first FROM")
    if not stages:
        raise BuildError("the Dockerfile has no FROM")
    return Dockerfile(tuple(arguments), tuple(_stage(i, head, body) for i, (head, body) in enumerate(stages)))


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `$NAME`, `${NAME}` and `${NAME:-default}`; an unknown name becomes empty, as in Docker."""

    def value(found: re.Match[str]) -> str:
        known = variables.get(found["braced"] or found["bare"], "")
        return known or found["default"] or ""

    return _VARIABLE.sub(value, text)


def parse_pairs(instruction: Instruction) -> dict[str, str]:
    """`ENV`, `LABEL` and `ARG` bodies: `NAME=value ...`."""
    pairs: dict[str, str] = {}
    for word in shlex.split(instruction.text):
        name, separator, value = word.partition("=")
        if not separator:
            raise BuildError(f"line {instruction.line}: {instruction.name} wants NAME=value, not {word!r}")
        pairs[name] = value
    return pairs


def parse_argument(instruction: Instruction) -> tuple[str, str | None]:
    """`ARG NAME[=default]`."""
    words = shlex.split(instruction.text)
    if len(words) != 1:
        raise BuildError(f"line {instruction.line}: ARG takes one name")
    name, separator, value = words[0].partition("=")
    return name, value if separator else None


def parse_command(instruction: Instruction) -> tuple[str, ...]:
    """`ENTRYPOINT` and `CMD` as a JSON list: a shell form would need a shell in the image."""
    try:
        words = json.loads(instruction.text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BuildError(f"line {instruction.line}: {instruction.name} must be a JSON list of strings")
    return tuple(words)


def parse_copy(instruction: Instruction) -> Copy:
    """`COPY [--from=STAGE] SOURCE... TARGET`."""
    flags, rest = _flags(instruction)
    words = shlex.split(rest)
    unknown = [name for name, _ in flags if name != "from"]
    if unknown:
        raise BuildError(f"line {instruction.line}: COPY --{unknown[0]} is not supported by the built-in builder")
    if len(words) < 2:
        raise BuildError(f"line {instruction.line}: COPY wants a source and a target")
    if len(words) > 2 and not words[-1].endswith("/"):
        raise BuildError(f"line {instruction.line}: with several sources the target of COPY must end with /")
    return Copy(tuple(words[:-1]), words[-1], dict(flags).get("from"))


def parse_run(instruction: Instruction) -> tuple[str, tuple[CacheMount, ...]]:
    """`RUN [--mount=type=cache,...]... COMMAND`: the command and its cache mounts."""
    flags, command = _flags(instruction)
    mounts: list[CacheMount] = []
    for name, value in flags:
        options = dict(pair.partition("=")[::2] for pair in value.split(","))
        if name != "mount" or options.get("type") != "cache" or "target" not in options:
            raise BuildError(
                f"line {instruction.line}: RUN --{name}={value}: the built-in builder knows --mount=type=cache,target=PATH only"
            )
        mounts.append(
            CacheMount(options.get("id") or options["target"].strip("/").replace("/", "-"), options["target"])
        )
    return command, tuple(mounts)


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#") or (not line and not pending):
            continue  # a comment between continuation lines is dropped, as in Docker
        first = first or number
        pending += line.removesuffix("\\").rstrip() + " " if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        name, _, rest = pending.partition(" ")
        if name.upper() not in KNOWN:
            raise BuildError(
                f"line {first}: {name} is not supported by the built-in builder (it knows {', '.join(KNOWN)})"
            )
        found.append(Instruction(name.upper(), rest.strip(), first))
        pending, first = "", 0
    if pending:
        raise BuildError(f"line {first}: the file ends inside a continued line")
    return found


def _stage(index: int, head: Instruction, body: list[Instruction]) -> Stage:
    words = head.text.split()
    if len(words) == 1:
        return Stage(str(index), words[0], head.line, tuple(body))
    if len(words) == 3 and words[1].upper() == "AS":
        return Stage(words[2], words[0], head.line, tuple(body))
    raise BuildError(f"line {head.line}: FROM wants IMAGE [AS NAME]")


def _flags(instruction: Instruction) -> tuple[list[tuple[str, str]], str]:
    flags: list[tuple[str, str]] = []
    rest = instruction.text
    while found := re.match(r"--([\w-]+)=(\S+)\s+", rest):
        flags.append((found[1], found[2]))
        rest = rest[found.end() :]
    return flags, rest
