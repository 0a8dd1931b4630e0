import importlib.util
import subprocess
import sys

import pytest

from headway_cli import main as cli


def test_arguments_go_to_the_engines_benchmarks_unparsed_and_the_exit_code_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def fake_run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", fake_run)
    assert cli.run(["bench", "engine", "--case", "cpu", "--help"]) == 3
    assert seen == [[sys.executable, "-m", "headway_engine.bench", "--case", "cpu", "--help"]]


@pytest.mark.parametrize("missing", ["headway_engine", "torch", "transformers"])
def test_a_missing_engine_is_named_with_its_cure(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "engine", "--case", "cpu"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"headway: {missing} is not installed; pip install 'headway[engine]' brings it\n"


def test_help_of_bench_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "the engine alone, without a network" in capsys.readouterr().out
