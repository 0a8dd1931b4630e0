"""The advisor's step model against measured points, and what must hold of any answer."""

import json
from pathlib import Path

import pytest

from headway_cli import main as cli
from headway_cli.errors import CliError
from headway_cli.simulate import engines
from headway_planner.advisor import Demand, Hardware, assess
from headway_planner.capacity import Mix
from headway_planner.roofline import GPUS, SHAPES, reduce_ms, step_model

ITL = [
    ("H200", 1, (4.935, 5.219, 6.969, 14.328)),
    ("H100", 1, (6.55, 6.91, 8.98, 15.80)),
    ("H200", 2, (3.50, 3.66, 4.67, 9.06)),
]
PREFILL = [("H200", 1, (14.43, 51.41, 98.14)), ("H100", 1, (16.8, 53.3, 101.3)), ("H200", 2, (12.5, 35.1, 60.7))]


@pytest.mark.parametrize(("gpu", "tp", "measured"), ITL)
def test_decode_is_within_a_tenth_of_the_measured_points(gpu: str, tp: int, measured: tuple[float, ...]) -> None:
    model = step_model(SHAPES["llama8b"], GPUS[gpu], tp, "nvlink")
    computed = [model.decode_ms(batch, 576 * batch) for batch in (1, 8, 64, 256)]
    assert computed == pytest.approx(measured, rel=0.10)


@pytest.mark.parametrize(("gpu", "tp", "measured"), PREFILL)
def test_prefill_is_within_18_percent_of_the_measured_points(gpu: str, tp: int, measured: tuple[float, ...]) -> None:
    model = step_model(SHAPES["llama8b"], GPUS[gpu], tp, "nvlink")
    assert [model.prefill_ms(prompt, 8192) for prompt in (512, 2048, 3900)] == pytest.approx(measured, rel=0.18)


def test_more_rate_never_takes_fewer_replicas() -> None:
    shape, gpu = SHAPES["llama8b"], GPUS["A100"]
    counts = [
        assess(shape, Hardware(gpu, 1), Demand(rate, Mix(1000, 200), 1500, 100)).replicas
        for rate in (1, 5, 20, 80, 320)
    ]
    assert counts == sorted(counts)
    assert counts[0] >= 1


def test_70b_needs_tensor_parallelism_and_8b_fits_one_l40s() -> None:
    assert all(step_model(SHAPES["llama70b"], gpu, 1, "nvlink").kv_tokens == 0 for gpu in GPUS.values())
    assert step_model(SHAPES["llama8b"], GPUS["L40S"], 1, "pcie").kv_tokens > 10_000


def _decode_ms(gpu: str, tp: int, batch: int) -> float:
    return step_model(SHAPES["llama8b"], GPUS[gpu], tp, "nvlink").decode_ms(batch, 576 * batch)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_an_h100_takes_35_to_45_percent_less_time_a_token_than_an_a100(batch: int) -> None:
    assert 0.35 < 1 - _decode_ms("H100", 1, batch) / _decode_ms("A100", 1, batch) < 0.45


def test_tp4_gains_about_a_third_at_any_batch_so_the_claim_of_12_percent_at_one_does_not_hold() -> None:
    gains = [1 - _decode_ms("H100", 4, batch) / _decode_ms("H100", 2, batch) for batch in (1, 16)]
    assert gains == pytest.approx([0.33, 0.336], abs=0.01)


def test_nvlink_saves_more_of_the_communication_than_the_claimed_20_to_30_percent() -> None:
    times = [reduce_ms(SHAPES["llama70b"], GPUS["H100"], 4, link) for link in ("nvlink", "pcie")]
    nvlink, pcie = (constant + per_token for constant, per_token in times)
    assert 1 - nvlink / pcie == pytest.approx(0.52, abs=0.01)


def test_the_command_prints_a_line_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "20", "--input", "1000", "--output", "200", "--prices", "h100=2.5"]
    assert cli.run(["plan", "--model", "llama8b", *load, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 16
    assert {row["gpu"] for row in rows if row["usd_per_million"]} == {"H100"}


def test_a_trace_brings_rate_and_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.csv"
    lines = "".join(f"{at / 10},1000,200\n" for at in range(101))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{lines}")
    assert cli.run(["plan", "--model", "llama8b", "--trace", str(trace), "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["tokens_per_s"] == pytest.approx(10.1 * 200)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no", "--rate", "1", "--input", "9", "--output", "9"], "--model: no model 'no'"),
        (["--model", "llama8b", "--rate", "-1", "--input", "9", "--output", "9"], "--rate must be above 0"),
        (["--model", "llama8b", "--rate", "1", "--input", "100000", "--output", "9"], "infeasible: own prefill"),
        (["--model", "llama8b", "--rate", "1", "--input", "9", "--output", "9", "--prices", "x=1"], "--prices must"),
    ],
)
def test_bad_input_names_the_flag(arguments: list[str], said: str) -> None:
    with pytest.raises(CliError, match=said):
        cli.run(["plan", *arguments])


def test_measured_engines_are_planned_from_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "20", "--input", "1000", "--output", "200", "--prices", "H100-llama8b-TP1=2.5"]
    assert cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["gpu"] for row in rows] == [one.name for one in engines.load_all(engines.BUILT_IN)]
    assert (rows[0]["gpu"], rows[0]["tp"]) == ("h100-llama8b-tp1", 1)
    assert rows[0]["usd_per_million"] == pytest.approx(2.5 * rows[0]["replicas"] / (3600 * 20 * 200) * 1e6)
    assert cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load]) == 0
    assert "Take " in capsys.readouterr().out
    with pytest.raises(CliError, match=r"--prices .* with a GPU of h100-llama8b-tp1, .*got 'H100=2'"):
        cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load, "--prices", "H100=2"])
    with pytest.raises(CliError, match="cannot read the engine file"):
        cli.run(["plan", "--engine-file", str(tmp_path / "none.csv"), *load])
