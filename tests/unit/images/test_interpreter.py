"""Which steps are executed, and which come from the cache. The steps themselves are replaced: no root, no network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from imagebuild import chroot, dockerfile
from imagebuild.base import Base
from imagebuild.context import Context
from imagebuild.errors import BuildError
from imagebuild.interpreter import Builder, Report, State
from imagebuild.oci import ImageConfig
from imagebuild.store import Store

FILE = """
ARG BASE_IMAGE=debian
ARG DEVICE=cpu
FROM ${BASE_IMAGE} AS tools
ARG VERSION=1
RUN install tool==${VERSION}
FROM tools AS pins
COPY lock lock
RUN export
FROM tools AS deps-cpu
COPY --from=pins /pins.txt /
RUN install-cpu
FROM tools AS deps-cuda
RUN install-cuda
FROM deps-${DEVICE} AS deps
FROM ${BASE_IMAGE}
COPY --from=deps /venv /venv
COPY code /code/
ENV A=1 B=${A}x
USER 65532
ENTRYPOINT ["run", "$A"]
"""


@dataclass
class Bench:
    """A builder over fake steps; `ran` lists the commands that were executed."""

    folder: Path
    ran: list[str] = field(default_factory=list)
    steps: list[chroot.Step] = field(default_factory=list)
    fresh: bool = False

    def run(self, step: chroot.Step, layers: Sequence[Path], work: Path, tick: object) -> None:
        self.ran.append(step.command)
        self.steps.append(step)
        if step.command == "export":
            # Like uv export: the pins depend on the lock's first line only.
            lock = next(layer / "lock" for layer in reversed(layers) if (layer / "lock").exists())
            (work / "diff/pins.txt").write_text(lock.read_text().splitlines()[0])
        if step.command.startswith("install-"):
            (work / "diff/venv").mkdir()
            (work / "diff/venv/lib").write_text(step.command)

    def build(self, text: str = FILE, **arguments: str) -> State:
        self.ran.clear()
        self.steps.clear()
        store = Store(self.folder / "cache", self.folder / "registry", fresh=self.fresh)
        base = store.find("base") or store.make("base", lambda work: (work / "diff/bin").mkdir())
        builder = Builder(
            file=dockerfile.parse(text),
            context=Context.at(self.folder / "repo"),
            store=store,
            load_base=lambda name: Base((base,), ImageConfig(env={"PATH": f"/bin:{name}"})),
            arguments=arguments,
            report=Report(lambda _: None, lambda: None, lambda: None),
        )
        return builder.build()

    def write(self, name: str, content: str) -> None:
        path = self.folder / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.setattr(chroot, "run", bench.run)
    bench.write("lock", "pins\nnoise")
    bench.write("code/a.py", "1")
    return bench


def test_the_first_build_runs_what_the_last_stage_needs_and_nothing_else(bench: Bench) -> None:
    bench.build()
    assert bench.ran == ["install tool==${VERSION}", "export", "install-cpu"]


def test_a_build_argument_chooses_the_stage(bench: Bench) -> None:
    bench.build(DEVICE="cuda")
    assert bench.ran == ["install tool==${VERSION}", "install-cuda"]


def test_an_unchanged_build_runs_nothing(bench: Bench) -> None:
    first = bench.build()
    assert bench.build() == first
    assert bench.ran == []


def test_a_change_of_code_replaces_the_last_layer_only(bench: Bench) -> None:
    before = bench.build().layers
    bench.write("code/a.py", "2")
    after = bench.build().layers
    assert bench.ran == []
    assert after[:-1] == before[:-1]
    assert after[-1].key != before[-1].key


def test_a_change_that_the_copied_file_does_not_show_stops_there(bench: Bench) -> None:
    bench.build()
    bench.write("lock", "pins\nother noise")
    bench.build()
    assert bench.ran == ["export"]


def test_a_change_that_it_shows_goes_on(bench: Bench) -> None:
    bench.build()
    bench.write("lock", "other pins\nnoise")
    bench.build()
    assert bench.ran == ["export", "install-cpu"]


def test_an_argument_of_a_stage_is_part_of_its_steps_keys(bench: Bench) -> None:
    bench.build()
    bench.build(VERSION="2")
    assert bench.ran == ["install tool==${VERSION}", "export", "install-cpu"]
    assert bench.steps[0].env["VERSION"] == "2"
    assert "VERSION" not in bench.steps[1].env, "an ARG ends with its stage"


def test_a_fresh_build_runs_everything_once(bench: Bench) -> None:
    bench.build()
    bench.fresh = True
    bench.build()
    assert bench.ran == ["install tool==${VERSION}", "export", "install-cpu"]


def test_the_configuration_follows_the_last_stage(bench: Bench) -> None:
    config = bench.build().config
    assert config.env == {"PATH": "/bin:debian", "A": "1", "B": "x"}
    assert (config.user, config.entrypoint) == ("65532", ("run", "$A"))


def test_the_copied_files_are_where_docker_would_put_them(bench: Bench) -> None:
    state = bench.build()
    assert (state.layers[-1].diff / "code/a.py").read_text() == "1"
    assert (state.layers[-2].diff / "venv/lib").read_text() == "install-cpu"


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (FILE, {"NOPE": "1"}, "the Dockerfile has no ARG NOPE"),
        ("FROM x\nCOPY nothing /\n", {}, "COPY nothing: no such file"),
        ("FROM x\nCOPY --from=y /a /\n", {}, "line 2: there is no stage y"),
        ("ARG B\nFROM ${B}\n", {}, "names no image"),
    ],
)
def test_mistakes_are_named(bench: Bench, text: str, arguments: dict[str, str], said: str) -> None:
    with pytest.raises(BuildError) as refused:
        bench.build(text, **arguments)
    assert said in str(refused.value)


def test_a_killed_step_leaves_no_layer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BuildError("killed")

    monkeypatch.setattr(chroot, "run", fail)
    with pytest.raises(BuildError):
        bench.build()
    monkeypatch.setattr(chroot, "run", bench.run)
    with Store(bench.folder / "cache", bench.folder / "registry").locked():
        pass
    bench.build()
    assert bench.ran == ["install tool==${VERSION}", "export", "install-cpu"]
