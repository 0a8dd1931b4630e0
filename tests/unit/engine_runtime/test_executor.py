"""The torch executor: what surrounds the model in a step."""

from dataclasses import replace

import pytest
import torch

from headway_engine.bench.shapes import SHAPES, random_decoder
from headway_engine.core.batch import Batch, Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.runtime.executor import TorchExecutor

TINY = replace(
    SHAPES["smol135m"], vocab_size=100, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=4, num_kv_heads=2,
    head_dim=8,
)  # fmt: skip


def test_a_step_runs_without_the_bookkeeping_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder(TINY, torch.device("cpu"), torch.float32)
    model.prepare(16)
    executor = TorchExecutor(model, num_blocks=4, block_size=4)
    seen: list[bool] = []
    forward = model.forward

    def spy(*arguments: object) -> torch.Tensor:
        seen.append(torch.is_inference_mode_enabled())
        return forward(*arguments)

    monkeypatch.setattr(model, "forward", spy)
    executor.begin()
    chunk = Chunk(0, (1, 2, 3), 0, (1,), True, SamplingParams(temperature=0.0), seed=0, num_sampled=0)
    (token,) = executor.run(Batch((chunk,)))
    assert isinstance(token, int)
    assert seen == [True]
