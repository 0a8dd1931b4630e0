"""Step-model files: what is written comes back, what is wrong is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway_cli.errors import CliError
from headway_cli.simulate import engines
from headway_planner.steps import Chunks, StepModel

MODEL = engines.load(engines.BUILT_IN)
TIMES = (
    "host_ms",
    "a1_ms",
    "b1_ms",
    "a2_ms",
    "b2_ms",
    "att_pf_ms",
    "att_dec_seq_ms",
    "att_dec_ctx_ms",
    "first_token_ms",
    "prompt_end_ms",
    "first_token_each_ms",
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.floats(1e-9, 1e6), min_size=len(TIMES), max_size=len(TIMES)), ahead=st.booleans())
def test_a_saved_model_comes_back(tmp_path: Path, times: list[float], ahead: bool) -> None:
    sizes = tuple(enumerate(times, start=1))
    saved = replace(MODEL, name="mine", ahead=ahead, decode_sizes=sizes, **dict(zip(TIMES, times, strict=True)))
    file = tmp_path / "new" / "engine.csv"
    engines.save(file, saved, ["measured somewhere", "error 3 %"])
    found = engines.load(file, "mine")
    assert file.read_text().startswith("# measured somewhere\n# error 3 %\n")
    assert (found.name, found.gpus, found.kv_tokens, found.ahead) == ("mine", 1, MODEL.kv_tokens, ahead)
    for name in TIMES:
        assert getattr(found, name) == pytest.approx(getattr(saved, name), rel=1e-5)
    assert [size for size, _ in found.decode_sizes] == [size for size, _ in sizes]
    assert [ms for _, ms in found.decode_sizes] == pytest.approx(times, rel=1e-5)


def written(tmp_path: Path, **changed: str) -> Path:
    file = tmp_path / "engine.csv"
    engines.save(file, MODEL, [])
    names, values = (line.split(",") for line in file.read_text().splitlines())
    row = {**dict(zip(names, values, strict=True)), **changed}
    file.write_text("\n".join((",".join(row), ",".join(row.values()))))
    return file


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("host_ms", "fast", "host_ms is missing or no number"),
        ("b2_ms", "-1", "b2_ms must be a finite number of at least 0, got -1"),
        ("a1_ms", "nan", "a1_ms must be a finite number, got nan"),
        ("att_pf_ms", "inf", "att_pf_ms must be a finite number of at least 0, got inf"),
        ("kv_tokens", "0", "kv_tokens must be a finite number of at least 1, got 0"),
        ("gpus", "1.5", "gpus must be a whole number, got 1.5"),
        ("kv_tokens", "1e300", "kv_tokens must be at most 1000000000, got 1e300"),
        ("host_ms", "9" * 200_000, "cannot read the engine file .*field larger than"),
        ("ahead", "2", "ahead must be 0 or 1, got 2"),
        ("prompt_end_ms", "-0.5", "prompt_end_ms must be a finite number of at least 0, got -0.5"),
        ("first_token_each_ms", "", "first_token_each_ms is missing or no number"),
        ("format", "4", "format 4 is not known here; this version reads 1 and 2 and 3"),
        ("decode_sizes", "1:4 2", "decode_sizes must be written like 1:4.13 2:4.34, got 1:4 2"),
        ("decode_sizes", "2:4 2:5", "decode_sizes must be ascending sequences, each with a time above 0, got 2:4 2:5"),
        ("decode_sizes", "0:4", "decode_sizes must be ascending sequences"),
        ("decode_sizes", "1:0", "each with a time above 0, got 1:0"),
        ("decode_sizes", "1:nan", "each with a time above 0, got 1:nan"),
        ("first_tokn_ms", "4", "there is no column first_tokn_ms; the columns are format, name, gpus, "),
    ],
)
def test_a_wrong_column_is_named_with_its_limit(tmp_path: Path, column: str, value: str, problem: str) -> None:
    with pytest.raises(CliError, match=problem):
        engines.load(written(tmp_path, **{column: value}))


def test_an_engine_whose_steps_take_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="a step takes no time"):
        engines.load(written(tmp_path, a1_ms="0", b1_ms="0", a2_ms="0", b2_ms="0"))


def test_columns_that_may_be_left_out(tmp_path: Path) -> None:
    file = written(tmp_path)
    names, values = (line.split(",") for line in file.read_text().splitlines())
    last = [
        *("prefill_factor", "first_token_ms", "ahead", "prompt_step_ms", "prompt_step_beside_ms"),
        *("prompt_end_ms", "first_token_each_ms", "decode_sizes"),
    ]
    assert names[-8:] == last
    file.write_text("\n".join((",".join(names[:-8]), ",".join(values[:-8]))))
    found = engines.load(file)
    assert [getattr(found, name) for name in last] == [1.0, 0.0, False, 0.0, 0.0, 0.0, 0.0, ()]


def test_a_file_of_the_first_format_has_no_format_and_is_read(tmp_path: Path) -> None:
    file = written(tmp_path)
    names, values = (line.split(",") for line in file.read_text().splitlines())
    assert (names[0], values[0]) == ("format", "3")
    file.write_text("\n".join((",".join(names[1:-3]), ",".join(values[1:-3]))))
    assert engines.load(file) == replace(MODEL, prompt_end_ms=0.0, first_token_each_ms=0.0)


def test_more_values_than_columns_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text(f"{file.read_text()},7")
    with pytest.raises(CliError, match="more values than columns"):
        engines.load(file)


def test_a_batch_takes_what_the_next_measured_size_takes() -> None:
    model = replace(MODEL, decode_sizes=((1, 4.0), (4, 4.5), (8, 7.0), (16, 5.0)))
    context = MODEL.att_dec_ctx_ms * 1000
    assert [model.decode_ms(batch, 0) for batch in (1, 2, 4, 5, 9, 16)] == [4.0, 4.5, 4.5, 7.0, 5.0, 5.0]
    assert model.decode_ms(5, 1000) == pytest.approx(7.0 + context)
    assert model.decode_ms(17, 1000) == MODEL.decode_ms(17, 1000)  # larger than all of them
    assert model.decode_ms(0, 0) == MODEL.decode_ms(0, 0)


def test_a_step_with_a_prompt_takes_its_least_time_and_one_without_does_not() -> None:
    model = replace(MODEL, prompt_step_ms=50.0, prompt_step_beside_ms=70.0)
    short, none, long = Chunks(16, 256.0), Chunks(0, 0.0), Chunks(8192, 8192.0**2)
    assert model.step_ms(0, 0, short) == 50
    assert model.step_ms(4, 400, short) == 70
    assert model.step_ms(4, 400, none) == model.decode_ms(4, 400)
    assert model.step_ms(4, 400, long) == MODEL.step_ms(4, 400, long) > 70


def test_each_prompt_that_ends_in_a_step_costs_its_end() -> None:
    model = replace(MODEL, prompt_end_ms=3.0)
    under_way, ended = Chunks(64, 4096.0), Chunks(64, 4096.0, ended=2)
    assert model.step_ms(4, 400, under_way) == MODEL.step_ms(4, 400, ended)
    assert model.step_ms(4, 400, ended) == pytest.approx(model.step_ms(4, 400, under_way) + 6)
    # Of a prompt in three chunks only the last one is an end.
    assert model.prefill_ms(300, 128) == pytest.approx(MODEL.prefill_ms(300, 128) + 3)


def test_what_is_no_file_of_engines_is_named(tmp_path: Path) -> None:
    file = tmp_path / "empty.csv"
    with pytest.raises(CliError, match=r"cannot read the engine file .*No such file"):
        engines.load(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="it is no text"):
        engines.load(file)
    file.write_text("")
    with pytest.raises(CliError, match="no engine in"):
        engines.load(file)


def test_a_chunk_apart_reads_the_weights_again() -> None:
    model: StepModel = replace(MODEL, prefill_factor=1.0)
    chunks = Chunks(64, 64.0**2)
    joint, apart = model.prompts_ms(8, chunks), model.prompts_ms(8, chunks, apart=True)
    assert apart - joint == pytest.approx(model.linear_ms(8) + model.linear_ms(64) - model.linear_ms(72))
    assert model.prompts_ms(0, chunks, apart=True) == model.prompts_ms(0, chunks)
