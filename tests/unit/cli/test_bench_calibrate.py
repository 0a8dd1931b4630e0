"""`headway bench calibrate` from samples, and `bench online --against`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headway_cli import main as cli
from headway_cli.bench import calibrate, predicted
from headway_cli.bench.front import Front, Probe, front
from headway_cli.bench.report import Record
from headway_cli.bench.workload import Arrival, Workload, arrivals
from headway_cli.errors import CliError
from headway_cli.simulate import engines
from headway_planner.model import BatchLimits

MODEL = replace(engines.load(engines.BUILT_IN), first_token_ms=0.0)
LIMITS = BatchLimits(64, 2048)
ENGINE = {"kind": "engine", "name": "tiny", "kv_tokens": 4096, "ahead": False, "dtype": "float32", "device": "cpu"}


def step(cell: str, ms: float, **more: float) -> dict[str, object]:
    row = {"decodes": 0, "context": 0, "tokens": 0, "squares": 0, "apart": False}
    return {"kind": "step", "cell": cell, "ms": ms, "times_ms": [ms], **row, **more}


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def samples() -> str:
    decodes = [step(f"decode {n}", 5 + n, decodes=n, context=64 * n) for n in (1, 2, 4, 8, 16)]
    prompts = [step(f"prompt {n}", 5 + 0.1 * n, tokens=n, squares=n * n) for n in (16, 64, 128, 256, 512)]
    return lines(ENGINE, *decodes, *prompts)


def test_kept_samples_become_a_file_that_simulate_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, file = tmp_path / "samples.jsonl", tmp_path / "engine.csv"
    kept.write_text(samples())
    assert cli.run(["bench", "calibrate", "--from", str(kept), "--output", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("held out\n") == 2
    assert "error of a step, mean / worst: fitted 0.0%" in out
    model = engines.load(file)
    assert (model.name, model.kv_tokens) == ("cpu-tiny-float32", 4096)
    assert model.decode_ms(8, 512) == pytest.approx(13, rel=0.01)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1,100,10\n")
    assert (
        cli.run(["simulate", str(trace), "--engine-file", str(file), "--policy", "static", "--scale", "1", "--json"])
        == 0
    )
    row = json.loads(capsys.readouterr().out)
    assert (row["engine"], row["finished"], row["attainment"]) == ("cpu-tiny-float32", row["requests"], 1.0)


def test_the_engine_is_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def fake_run(command: list[str], **_: object) -> object:
        seen.append(command)
        return type("Done", (), {"returncode": 0, "stdout": samples()})

    monkeypatch.setattr(calibrate.subprocess, "run", fake_run)
    file = tmp_path / "engine.csv"
    arguments = ["--output", str(file), "--shape", "smol135m", "--max-seqs", "8", "--name", "mine", "--json"]
    assert cli.run(["bench", "calibrate", *arguments]) == 0
    assert seen[0][1:] == ["-m", "headway_engine.bench.steps", "--shape", "smol135m", "--max-seqs", "8"]
    assert engines.load(file).name == "mine"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no line of kind engine"),
        (lines(ENGINE), "at least one each"),
        (lines({**ENGINE, "kv_tokens": 0}, step("x", 1.0)), "kv_tokens must be a whole number of at least 1, got 0"),
        (lines(ENGINE, step("x", -1.0)), "line 2 .*ms must be a number of at least 0, got -1.0"),
        (lines(ENGINE, {"kind": "step"}), "line 2 of the samples is no measured step: KeyError"),
        ("{", "line 1 of the samples"),
        ("[]", "line 1 of the samples"),
    ],
)
def test_samples_that_are_none_are_named(text: str, problem: str, tmp_path: Path) -> None:
    kept = tmp_path / "samples.jsonl"
    kept.write_text(text)
    with pytest.raises(CliError, match=problem):
        cli.run(["bench", "calibrate", "--from", str(kept), "--output", str(tmp_path / "engine.csv")])


# ---- under load -----------------------------------------------------------------------------------------------------


def schedule() -> list[Arrival]:
    return arrivals(Workload(rate_per_s=5.0, duration_s=20.0))


def measured(change: Callable[[Record], Record]) -> list[Record]:
    """What an engine exactly as simulated would have measured, changed."""
    return [change(one) for one in predicted.records(MODEL, LIMITS, schedule())]


def errors(change: Callable[[Record], Record]) -> dict[str, float]:
    found = predicted.beside(measured(change), predicted.records(MODEL, LIMITS, schedule()))
    return {one.name: one.error for one in found}


def test_an_engine_as_simulated_has_no_error() -> None:
    found = errors(lambda one: one)
    assert set(found.values()) == {0.0}
    assert set(found) == {"TPOT mean", "TPOT p50", "TPOT p95", "TTFT p50", "TTFT p95", "output tok/s"}


def test_first_tokens_at_twice_the_time_are_an_error_of_minus_a_half() -> None:
    def late(one: Record) -> Record:
        assert one.first_s is not None
        return replace(one, first_s=one.arrival_s + 2 * (one.first_s - one.arrival_s))

    found = errors(late)
    assert found["TTFT p95"] == pytest.approx(-0.5)
    assert found["TTFT p50"] == pytest.approx(-0.5)


def test_answers_that_take_longer_are_an_error_of_their_rate_only() -> None:
    def slow(one: Record) -> Record:
        assert one.first_s is not None
        assert one.last_s is not None
        return replace(one, last_s=one.first_s + 1.25 * (one.last_s - one.first_s))

    found = errors(slow)
    assert found["TPOT mean"] == pytest.approx(-0.2)
    assert found["TTFT p95"] == 0


def test_requests_that_failed_are_not_compared() -> None:
    fates = predicted.records(MODEL, LIMITS, schedule())
    assert predicted.beside([replace(one, status="DEADLINE") for one in fates], fates) == []


def test_the_front_is_what_a_lone_first_token_takes_beside_its_steps_whatever_they_take() -> None:
    lone = [Probe(step_ms + more, step_ms + 1, 1.0) for step_ms in (20, 50, 130) for more in (4, 90, 3)]
    beside = [Probe(step_ms + 40, step_ms + 30, 9.0) for step_ms in (20, 50, 130)]
    # Outside of the engine's own time it is 3 ms alone and 10 ms beside the streams.
    assert front(lone, beside, 35) == Front(alone_ms=4, each_ms=pytest.approx(0.2))


def test_a_front_is_never_negative() -> None:
    slow, fast = [Probe(10.0, 5.0, 0.0)], [Probe(10.0, 9.0, 0.0)]
    assert front(slow, fast, 8) == Front(5.0, 0.0)
    assert front([Probe(1.0, 2.0, 0.0)], fast, 8).alone_ms == 0


def test_the_front_delays_first_tokens_and_leaves_the_time_between_tokens() -> None:
    late = predicted.records(Front(7.0, 0.0).on(MODEL), LIMITS, schedule())
    for one, other in zip(predicted.records(MODEL, LIMITS, schedule()), late, strict=True):
        assert one.ttft_ms is not None
        assert other.ttft_ms == pytest.approx(one.ttft_ms + 7)
        assert other.tpot_ms == pytest.approx(one.tpot_ms)


def test_streams_delay_a_first_token_and_none_does_where_the_prompt_is_alone() -> None:
    crowd = [Arrival(0, 0.0, 64, 1000), Arrival(1, 1.0, 64, 50), Arrival(2, 100.0, 64, 50)]
    before = predicted.records(MODEL, LIMITS, crowd)
    after = predicted.records(Front(0.0, 0.5).on(MODEL), LIMITS, crowd)
    later = [(other.ttft_ms or 0) - (one.ttft_ms or 0) for one, other in zip(before, after, strict=True)]
    assert later == pytest.approx([0.0, 0.5, 0.0])


def test_capacity_is_where_a_queue_would_begin_to_grow() -> None:
    crowd = arrivals(Workload(rate_per_s=300.0, duration_s=1.0))
    rate = predicted.capacity(MODEL, LIMITS, crowd)

    def p95_ms(share: float) -> float:
        fates = predicted.records(MODEL, LIMITS, arrivals(Workload(rate_per_s=share * rate, duration_s=60.0)))
        return sorted(one.ttft_ms or 0.0 for one in fates)[int(0.95 * len(fates))]

    assert p95_ms(0.7) < 500 < p95_ms(1.5)


def test_capacity_of_a_slow_engine_does_not_grow_with_the_crowd() -> None:
    slow, crowd = replace(MODEL, host_ms=1000.0), arrivals(Workload(rate_per_s=600.0, duration_s=1.0))
    rate = predicted.capacity(slow, LIMITS, crowd[:300])
    assert rate == pytest.approx(predicted.capacity(slow, LIMITS, crowd), rel=0.15)
