import argparse
import importlib
import io
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError

import pytest

from headway_cli import main as cli
from headway_cli.bench import arguments
from headway_cli.errors import CliError
from headway_cli.generate import render_chat, sampling


def test_serve_and_run_hand_their_arguments_over_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Sequence[str]]] = []

    def fake_import(name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(main=lambda argv=(): seen.append((name, argv)) or 7)

    monkeypatch.setattr(importlib, "import_module", fake_import)
    cli.run(["engine", "serve", "--model", "m", "--help"])
    assert cli.run(["operator", "run"]) == 7
    assert seen == [
        ("headway_engine.__main__", ["--model", "m", "--help"]),
        ("headway_operator.__main__", ()),
    ]


def test_a_missing_extra_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_module(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name}", name="torch")

    monkeypatch.setattr(importlib, "import_module", no_module)
    with pytest.raises(SystemExit) as ended:
        cli.main(["engine", "serve"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "headway: torch is not installed; pip install 'headway[engine]' brings it\n"


@pytest.mark.parametrize(
    "argv", [["--help"], ["generate", "--help"], ["bench", "online", "--help"], ["engine", "--help"]]
)
def test_help_needs_no_engine_and_no_cluster(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 0
    assert "usage: headway" in capsys.readouterr().out


def test_a_checkout_that_is_not_installed_has_no_version_and_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", unknown)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "headway (not installed)\n"


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    monkeypatch.setattr(cli, "version", lambda _: "caf\u00e9")
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert shown.getvalue() == b"headway caf?\n"


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_is_one_sentence(buffered: bool) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    assert written_to(full, buffered) == (1, "headway: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_enough_ends_the_command_in_silence(buffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert written_to(writer, buffered) == (0, "")


def written_to(descriptor: int, buffered: bool) -> tuple[int, str]:
    """Exit code and standard error of a command that needs nothing and writes there."""
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "headway_cli.main", "bench", "compare"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(descriptor, "w") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment, check=False, timeout=60
        )
    return done.returncode, done.stderr


def test_generate_without_flags_is_greedy_and_leaves_the_rest_to_the_engine() -> None:
    params = sampling(cli.build_parser().parse_args(["generate", "hi"]))
    assert (params.temperature, params.max_tokens) == (0.0, 128)
    assert not params.HasField("top_p")
    assert not params.HasField("seed")


@pytest.mark.parametrize(
    ("flag", "value", "most"), [("--max-tokens", -1, 2**32), ("--max-tokens", 2**32, 2**32), ("--seed", 2**64, 2**64)]
)
def test_a_number_that_no_request_can_hold_is_refused(flag: str, value: int, most: int) -> None:
    with pytest.raises(CliError, match=f"{flag} must be 0 to {most - 1}, got {value}"):
        sampling(cli.build_parser().parse_args(["generate", "hi", f"{flag}={value}"]))


def test_the_chat_template_is_rendered_with_system_and_user() -> None:
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert render_chat(template, "hi", "be brief") == "<system>be brief\n<user>hi\n<assistant>"


def test_without_a_system_message_the_template_gets_the_user_only() -> None:
    assert render_chat("{{ messages | length }}{{ messages[0]['role'] }}", "hi", "") == "1user"


def test_a_template_that_reaches_for_python_is_refused() -> None:
    with pytest.raises(CliError, match="chat template"):
        render_chat("{{ messages.__class__.__mro__[1].__subclasses__() }}", "hi", None)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--rate", "0"], "--rate must be above 0 and at most 1000000, got 0"),
        (["--rate", "1", "--max-input", "3"], "--max-input"),
        (["--rate", "inf"], "--rate must be"),
        (["--rate", "1", "--duration", "inf"], "--duration must be"),
        (["--rate", "1000000", "--duration", "600"], "--rate times --duration must be at most 10000000"),
        (["--rate", "1", "--input-mu", "1e9"], "--input-mu must be"),
        (["--rate", "1", "--output-sigma", "nan"], "--output-sigma must be"),
        (["--rate", "1", "--slo-ttft-ms", "nan"], "--slo-ttft-ms must be above 0"),
        (["--rate", "1", "--warmup", "-1"], "--warmup must be at least 0"),
    ],
)
def test_a_senseless_workload_is_refused_by_flag(flags: list[str], names: str) -> None:
    parser = argparse.ArgumentParser()
    arguments.add(parser)
    with pytest.raises(CliError, match=names):
        arguments.workload(parser.parse_args(flags))
