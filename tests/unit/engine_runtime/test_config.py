from pathlib import Path

import pytest

from headway_engine.core.limits import Limits
from headway_engine.runtime.config import EngineConfig


@pytest.mark.parametrize(
    ("path", "served", "name"),
    [
        ("/models/smollm2.Q4_1.gguf", None, "smollm2.Q4_1"),
        ("/models/Qwen2.5-0.5B", None, "Qwen2.5-0.5B"),
        ("/models/x", "chat", "chat"),
    ],
)
def test_the_served_name_is_the_last_path_component_unless_given(path: str, served: str | None, name: str) -> None:
    assert EngineConfig(model=Path(path), served_model_name=served).model_name == name


def test_the_baseline_is_the_capacity_unless_given() -> None:
    assert EngineConfig(model=Path("x")).baseline() == Limits(64, 2048, 0, 256)
    assert EngineConfig(model=Path("x"), max_num_seqs=8).baseline().max_num_seqs == 8


def test_a_baseline_outside_the_envelope_is_a_problem_that_names_field_and_bound() -> None:
    config = EngineConfig(model=Path("x"), capacity_max_num_seqs=16, max_num_seqs=32)
    assert config.problem() == "limits.max_num_seqs is 32, the envelope allows 1 to 16"
    assert EngineConfig(model=Path("x")).problem() is None
