"""The case `batching` on a toy model: a row for each batch size, mode and profile, measured under that row's limits."""

import argparse
from pathlib import Path

import pytest
import toy_model

from headway_engine.bench import batching as case
from headway_engine.bench.recorded import RecordedEngine
from headway_engine.core.limits import BatchingMode, LimitsPatch, Profile

COLUMNS = {"throughput", *(f"{name} p{share}" for name in ("TTFT", "ITL", "worst gap") for share in (50, 95))}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_model.saved(tmp_path, vocab_size=64)


def test_every_batch_size_mode_and_profile_has_its_row_and_its_limits(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches: list[LimitsPatch] = []
    plain = RecordedEngine.set_limits
    monkeypatch.setattr(
        RecordedEngine, "set_limits", lambda engine, patch: (patches.append(patch), plain(engine, patch))
    )
    parser = argparse.ArgumentParser()
    case.add_arguments(parser)
    flags = ["--input", "4", "--output", "3", "--requests", "10", "--wait", "20", "--long", "30", "--itl", "50"]
    result = case.run(parser.parse_args(["--model", str(model), *flags]))
    rows: dict[str, set[str]] = {}
    for figure in result.figures:
        row, _, column = figure.name.partition(": ")
        rows.setdefault(row, set()).add(column)
        assert figure.value > 0, figure.name
    assert list(rows) == [
        *(f"batch {size}" for size in (1, 2, 4, 8, 16, 32, 64)),
        *(f"mode {mode}" for mode in BatchingMode),
        *(f"profile {profile}" for profile in Profile),
    ]
    assert all(columns == COLUMNS for columns in rows.values())
    assert [patch.max_num_seqs for patch in patches[:7]] == [1, 2, 4, 8, 16, 32, 64]
    assert [(patch.batching_mode, patch.batch_wait_ms, patch.max_num_seqs) for patch in patches[7:11]] == [
        (BatchingMode.CONTINUOUS, 0, 64),
        (BatchingMode.STATIC, 20, 8),
        (BatchingMode.DYNAMIC, 20, 64),
        (BatchingMode.ADAPTIVE, 20, 64),
    ]
    assert [(patch.profile, patch.itl_target_ms) for patch in patches[12:]] == [
        (Profile.THROUGHPUT, 50),
        (Profile.LOW_TAIL, 50),
    ]
