"""Forms that a compiler does not come back from: refused in time, and the next one is compiled."""

import json
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine_model import VOCAB_SIZE, ByteTokenizer

from headway_engine.core.constraint import ConstraintError, ConstraintKind, ConstraintSpec
from headway_engine.core.request import RequestId
from headway_engine.runtime import form_trial
from headway_engine.runtime.form_trial import FormTrial
from headway_engine.runtime.grammar import GrammarCompiler

PATTERNS = [{"pattern": f".*a{{{count}}}.*b{{{count}}}"} for count in range(1, 30)]
ENDLESS = ConstraintSpec(ConstraintKind.JSON_SCHEMA, json.dumps({"type": "string", "allOf": PATTERNS}))
PLAIN = ConstraintSpec(ConstraintKind.CHOICE, "", ("yes", "no"))


@pytest.fixture
def trial() -> Iterator[FormTrial]:
    trial = FormTrial(ByteTokenizer(), VOCAB_SIZE)
    yield trial
    trial.close()


def test_a_form_without_end_is_refused_in_time_and_the_next_one_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_trial, "MOST_S", 1.0)
    compiler = GrammarCompiler(ByteTokenizer(), VOCAB_SIZE)
    endless = compiler.prepare(RequestId("endless"), ENDLESS)
    plain = compiler.prepare(RequestId("plain"), PLAIN)
    with pytest.raises(ConstraintError, match=r"sampling_params.json_schema: it takes more than 1 s to compile"):
        endless.result(timeout=30)
    plain.result(timeout=30)
    assert compiler.take(RequestId("plain")) is not None
    assert compiler.take(RequestId("endless")) is None
    compiler.close()


def test_a_form_that_costs_the_process_is_refused_and_the_next_one_is_compiled(trial: FormTrial) -> None:
    trial.check(PLAIN)
    assert trial._process is not None
    trial._process.kill()
    with pytest.raises(
        ConstraintError, match=r"sampling_params.choice: compiling it took more than 1024 MiB, or broke"
    ):
        trial.check(PLAIN)
    trial.check(PLAIN)


def test_what_is_wrong_with_a_form_is_said_as_it_is_elsewhere(trial: FormTrial) -> None:
    with pytest.raises(ConstraintError, match=r"sampling_params.regex: .*unclosed group"):
        trial.check(ConstraintSpec(ConstraintKind.REGEX, "(("))


def test_the_process_has_the_bound_on_data_and_is_there_once(trial: FormTrial) -> None:
    trial.check(PLAIN)
    first = trial._process
    assert first is not None
    assert resource.prlimit(first.pid, resource.RLIMIT_DATA) == (form_trial.MOST_BYTES, form_trial.MOST_BYTES)
    used, _ = resource.prlimit(first.pid, resource.RLIMIT_CPU)
    assert form_trial.MOST_S < used < 60, "also where the engine is gone in the midst of a form"
    trial.check(PLAIN)
    assert trial._process is first


def test_closed_in_the_midst_of_a_form_it_leaves_no_process(trial: FormTrial) -> None:
    trial.check(PLAIN)
    process = trial._process
    assert process is not None
    begun, refusals = threading.Event(), list[str]()

    def check() -> None:
        begun.set()
        with pytest.raises(ConstraintError) as refused:
            trial.check(ENDLESS)
        refusals.append(str(refused.value))

    thread = threading.Thread(target=check)
    thread.start()
    begun.wait()
    trial.close()
    thread.join(timeout=form_trial.MOST_S)
    assert not thread.is_alive()
    assert len(refusals) == 1
    assert process.returncode is not None
    with pytest.raises(ConstraintError, match="the engine has stopped"):
        trial.check(PLAIN)


def test_a_short_form_keeps_little_memory() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), VOCAB_SIZE)
    compiler.compile_here(PLAIN)
    before = _resident_mib()
    for count in range(4):
        compiler.compile_here(ConstraintSpec(ConstraintKind.REGEX, f"(a{{1000}}){{{980 + count}}}"))
    assert _resident_mib() - before < 200, "it was 190 MB for each"


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20
