import argparse
import json
import re
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from headway_engine.bench import __main__ as bench
from headway_engine.bench import batching
from headway_engine.bench.report import Report, of_samples
from headway_engine.runtime import engine
from headway_engine.runtime.config import ModelLoadError


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A case that reports its flag."""
    module = types.ModuleType("toy_case")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--speed", type=float, default=1.0)

    def run(options: argparse.Namespace) -> Report:
        return Report("toy", {}, (of_samples("speed", "tok/s", [options.speed]),))

    module.DESCRIPTION, module.add_arguments, module.run = "a toy", add_arguments, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_case", module)
    monkeypatch.setattr(bench, "CASES", {"toy": "toy_case"})
    return module


@pytest.mark.usefixtures("toy")
def test_a_case_gets_its_own_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bench.main(["--case", "toy", "--speed", "7", "--json", "--save", str(tmp_path)])
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[1])["value"] == 7.0
    (saved,) = tmp_path.iterdir()
    assert saved.read_text() == printed


@pytest.mark.usefixtures("toy")
def test_help_of_a_case_shows_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--case", "toy", "--help"])
    assert ended.value.code == 0
    assert "--speed" in capsys.readouterr().out


@pytest.mark.usefixtures("toy")
def test_list_names_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--list"])
    assert capsys.readouterr().out.split() == ["toy", "a", "toy"]


def test_a_missing_or_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--case", "none"]):
        with pytest.raises(SystemExit) as ended:
            bench.main(argv)
        assert ended.value.code == 2
    assert "--case" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf"])
@pytest.mark.usefixtures("toy")
def test_a_number_that_measures_nothing_is_refused_before_the_case_runs(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--case", "toy", "--speed", value])
    assert ended.value.code == 2
    assert "--speed must be a finite number above 0" in capsys.readouterr().err


def test_a_prompt_that_no_model_takes_is_refused_in_words() -> None:
    options = argparse.Namespace(input=64, output=32, long=8161)
    batching._check_lengths(options, 8193)
    with pytest.raises(ModelLoadError, match="--long 8161 and --output 32 are more than the model's 8192 tokens"):
        batching._check_lengths(options, 8192)


def test_a_model_that_cannot_be_loaded_ends_with_one_line(
    toy: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> Report:
        raise ModelLoadError("none.gguf: No such file or directory")

    toy.run = run  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        bench.main(["--case", "toy"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "headway bench engine: none.gguf: No such file or directory\n"


@pytest.mark.parametrize("name", bench.CASES)
def test_every_case_of_the_list_can_be_loaded(name: str) -> None:
    case = bench.load(name)
    assert case.DESCRIPTION
    case.add_arguments(argparse.ArgumentParser())


def test_cases_are_listed_and_run_without_the_packages_of_the_server() -> None:
    code = """
import sys
for name in ("grpc_health", "grpc_reflection", "google", "gguf", "accelerate", "llguidance", "prometheus_client", "pydantic"):
    sys.modules[name] = None  # an import of it fails as if it was not installed
from headway_engine.bench import __main__ as bench
from headway_engine.bench import batching
for name in bench.CASES:
    bench.load(name)
bench.main(["--list"])
bench.main(["--case", "stalled"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(bench.CASES)
    assert done.returncode == 1
    assert re.fullmatch(r"headway bench engine: --case stalled needs \w+, which is not installed\n", done.stderr)


def test_an_engine_runs_in_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engine, "version", missing)
    assert engine._version() == "not installed"
