"""Builds an image from a Dockerfile without a container engine.

Each instruction that changes files has a cache key: RUN by the state below it, its command, environment and mounts;
COPY by what it copies and where to, and not by what lies below (a new base does not copy a gigabyte again).
A step whose key is in the store is not executed. Only stages that the last one needs are looked at.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import chroot, dockerfile, trees
from .base import Base
from .context import Context
from .dockerfile import Dockerfile, Instruction, Stage
from .errors import BuildError
from .oci import ImageConfig
from .store import Layer, Store, key_of


@dataclass(frozen=True, slots=True)
class State:
    """A stage as far as it has been built. `arguments` are the values of its ARGs."""

    layers: tuple[Layer, ...]
    config: ImageConfig
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def chain(self) -> str:
        """The identity of the file system so far."""
        return key_of([layer.key for layer in self.layers])

    @property
    def variables(self) -> dict[str, str]:
        """What `$NAME` means; the environment wins over arguments, as in Docker."""
        return {**self.arguments, **self.config.env}


@dataclass(frozen=True, slots=True)
class Report:
    """Where progress goes: a step begins (its text), still runs, is over."""

    start: Callable[[str], None]
    tick: Callable[[], None]
    done: Callable[[], None]


@dataclass(slots=True)
class Builder:
    """One build of one Dockerfile."""

    file: Dockerfile
    context: Context
    store: Store
    load_base: Callable[[str], Base]
    arguments: Mapping[str, str]
    report: Report
    _done: dict[str, State] = field(default_factory=dict, init=False)

    def build(self) -> State:
        """Builds the last stage and what it needs."""
        self._check_arguments()
        return self._stage(self.file.stages[-1])

    def _check_arguments(self) -> None:
        bodies = [*self.file.arguments, *(i for stage in self.file.stages for i in stage.body if i.name == "ARG")]
        unknown = set(self.arguments) - {dockerfile.parse_argument(i)[0] for i in bodies}
        if unknown:
            raise BuildError(f"the Dockerfile has no ARG {min(unknown)}")

    def _globals(self) -> dict[str, str]:
        values: dict[str, str] = {}
        for instruction in self.file.arguments:
            name, default = dockerfile.parse_argument(instruction)
            values[name] = self.arguments.get(name, dockerfile.substitute(default or "", values))
        return values

    def _stage(self, stage: Stage) -> State:
        if stage.name in self._done:
            return self._done[stage.name]
        base = dockerfile.substitute(stage.base, self._globals())
        if not base:
            raise BuildError(f"line {stage.line}: FROM {stage.base} names no image")
        earlier = self.file.stages[: self.file.stages.index(stage)]
        parent = next((other for other in earlier if other.name == base), None)
        if parent is not None:
            state = replace(self._stage(parent), arguments={})
        else:
            found = self.load_base(base)
            state = State(found.layers, found.config)
        for instruction in stage.body:
            state = self._step(stage, state, instruction)
        self._done[stage.name] = state
        return state

    def _step(self, stage: Stage, state: State, instruction: Instruction) -> State:
        match instruction.name:
            case "RUN":
                return self._run(stage, state, instruction)
            case "COPY":
                return self._copy(stage, state, instruction)
            case "ARG":
                name, default = dockerfile.parse_argument(instruction)
                inherited = default if default is not None else self._globals().get(name, "")
                value = self.arguments.get(name, dockerfile.substitute(inherited, state.variables))
                return replace(state, arguments={**state.arguments, name: value})
            case _:
                return replace(state, config=_configure(state, instruction))

    def _run(self, stage: Stage, state: State, instruction: Instruction) -> State:
        command, mounts = dockerfile.parse_run(instruction)
        config = state.config
        targets = {mount.target: mount.id for mount in mounts}
        env = state.variables
        key = key_of("RUN", state.chain, command, env, config.workdir, config.user, targets)
        layer = self.store.find(key)
        if layer is None:
            folders = {target: self.store.mount(identifier) for target, identifier in targets.items()}
            step = chroot.Step(command, env, config.workdir, config.user, folders)
            below = [below.diff for below in state.layers]
            layer = self._make(stage, instruction, key, lambda work: chroot.run(step, below, work, self.report.tick))
        return replace(state, layers=(*state.layers, layer))

    def _copy(self, stage: Stage, state: State, instruction: Instruction) -> State:
        expanded = replace(instruction, text=dockerfile.substitute(instruction.text, state.variables))
        copy = dockerfile.parse_copy(expanded)
        target = posixpath.normpath(posixpath.join(state.config.workdir, copy.target))
        into = copy.target.endswith("/") or copy.target in (".", "./")
        trees_and_digests: list[tuple[dict[str, Path], str, str]] = []
        for source in copy.sources:
            tree, digest = self._source(copy.stage, source, instruction)
            place = posixpath.join(target, posixpath.basename(source)) if into and "" in tree else target
            trees_and_digests.append((tree, digest, place))
        key = key_of("COPY", [(digest, place) for _, digest, place in trees_and_digests])
        layer = self.store.find(key)
        if layer is None:
            linked = copy.stage is not None

            def fill(work: Path) -> None:
                for tree, _, place in trees_and_digests:
                    trees.place(tree, work / "diff" / place.lstrip("/"), link=linked)

            layer = self._make(stage, instruction, key, fill)
        return replace(state, layers=(*state.layers, layer))

    def _source(self, stage_name: str | None, source: str, instruction: Instruction) -> tuple[dict[str, Path], str]:
        if stage_name is None:
            tree = self.context.tree(source)
            digest = trees.digest(tree)
        else:
            stage = next((s for s in self.file.stages if s.name == stage_name), None)
            if stage is None:
                raise BuildError(f"line {instruction.line}: there is no stage {stage_name}")
            state = self._stage(stage)
            tree = trees.merged([layer.diff for layer in state.layers], source)
            digest = self.store.remember(key_of("tree", state.chain, source), lambda: trees.digest(tree))
        if not tree:
            raise BuildError(f"line {instruction.line}: COPY {source}: no such file (or .dockerignore hides it)")
        return tree, digest

    def _make(self, stage: Stage, instruction: Instruction, key: str, fill: Callable[[Path], None]) -> Layer:
        self.report.start(f"[{stage.name}] {instruction.name} {instruction.text}")
        layer = self.store.make(key, fill)
        self.report.done()
        return layer


def _configure(state: State, instruction: Instruction) -> ImageConfig:
    config = state.config
    expanded = replace(instruction, text=dockerfile.substitute(instruction.text, state.variables))
    match instruction.name:
        case "ENV":
            config = replace(config, env={**config.env, **dockerfile.parse_pairs(expanded)})
        case "LABEL":
            config = replace(config, labels={**config.labels, **dockerfile.parse_pairs(expanded)})
        case "WORKDIR":
            config = replace(config, workdir=posixpath.join(config.workdir, expanded.text))
        case "USER":
            config = replace(config, user=expanded.text)
        case "EXPOSE":
            config = replace(config, ports=(*config.ports, *expanded.text.split()))
        case "ENTRYPOINT":
            config = replace(config, entrypoint=dockerfile.parse_command(instruction))
        case "CMD":
            config = replace(config, command=dockerfile.parse_command(instruction))
        case _:
            raise BuildError(f"line {instruction.line}: {instruction.name} is not supported by the built-in builder")
    return config
