"""Our own Dockerfiles: understood by the built-in builder, shared where they say so, and fit for a restricted pod."""

from pathlib import Path

import pytest
from imagebuild import dockerfile
from imagebuild.context import Context
from imagebuild.dockerfile import Dockerfile, Stage

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("engine", "operator")


def read(name: str) -> Dockerfile:
    return dockerfile.parse((ROOT / f"Dockerfile.{name}").read_text())


def stage(file: Dockerfile, name: str) -> Stage:
    return next(stage for stage in file.stages if stage.name == name)


def texts(stage: Stage) -> list[tuple[str, str]]:
    return [(instruction.name, instruction.text) for instruction in stage.body]


def test_both_images_share_their_first_stages() -> None:
    engine, operator = read("engine"), read("operator")
    for name in ("base", "uv"):
        assert texts(stage(engine, name)) == texts(stage(operator, name))


@pytest.mark.parametrize("name", NAMES)
def test_the_container_starts_as_nobody_without_a_shell(name: str) -> None:
    last = read(name).stages[-1]
    by_name = {instruction.name: instruction for instruction in last.body}
    assert by_name["USER"].text == "65532:65532"
    entrypoint = dockerfile.parse_command(by_name["ENTRYPOINT"])
    assert entrypoint == ("/opt/headway/venv/bin/python3", "-m", f"headway_{name}")
    assert dockerfile.parse_pairs(by_name["ENV"])["PYTHONUNBUFFERED"] == "1"


@pytest.mark.parametrize("name", NAMES)
def test_the_code_is_the_last_layer(name: str) -> None:
    copies = [i for i in read(name).stages[-1].body if i.name in ("COPY", "RUN")]
    assert dockerfile.parse_copy(copies[-1]).stage == "code"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_copied_is_in_the_context(name: str) -> None:
    context = Context.at(ROOT)
    for part in read(name).stages:
        for instruction in part.body:
            if instruction.name == "COPY" and (copy := dockerfile.parse_copy(instruction)).stage is None:
                for source in copy.sources:
                    assert context.tree(source), f"{part.name}: {source}"


def test_the_context_holds_no_tests_and_no_repository() -> None:
    ignore = Context.at(ROOT).ignore
    assert all(ignore.excludes(path) for path in (".git/config", "tests/unit/x.py", ".venv/bin/python", "charts/a"))


def test_the_operator_image_never_sees_the_engine() -> None:
    text = (ROOT / "Dockerfile.operator").read_text()
    assert "headway_engine" not in text
    assert "--extra engine" not in text
