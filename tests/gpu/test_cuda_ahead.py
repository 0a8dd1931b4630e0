"""Steps with prompts that run ahead of the scheduler: their answers are those of a float32 model, whoever ends beside them."""

from dataclasses import replace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("the CUDA executor needs a CUDA device", allow_module_level=True)

from cuda_driver import EVEN, MARGIN, SIZES, TINY, Driver, prepared, prompt_of, worst_margin

from headway_engine.core.request import FinishReason
from headway_engine.model.config import ModelConfig
from headway_engine.model.transformer import Decoder

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=[TINY, EVEN], ids=["odd", "even"])
def tiny(request: pytest.FixtureRequest) -> Decoder:
    config: ModelConfig = request.param
    return prepared(config)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "kernel by kernel"])
def test_steps_with_prompts_run_ahead_and_answers_are_right_whoever_ends_beside_them(
    tiny: Decoder, graphs: bool
) -> None:
    driver = Driver(tiny, replace(SIZES, num_blocks=600), budget=96)
    if not graphs:
        driver.executor._launches.prompts.graphs = {}

    def crowd(step: int) -> None:
        while step < 120 and driver.scheduler.num_waiting < 3:
            index = len(driver.prompts)
            stops = {"stop_token_ids": tuple(range(60))} if index % 2 else {}  # one in 17 tokens
            driver.add(f"r{index}", prompt_of(1 + 53 * index % 230, index), 1 + 7 * index % 40, index, **stops)
        if step % 8 == 7:  # one that decodes, one whose prompt is being computed: both run ahead
            for sequence in driver.scheduler.running()[:: max(1, driver.scheduler.num_running - 1)]:
                driver.scheduler.abort(sequence.request.request_id, FinishReason.ABORT, driver.now)
                driver.answers.pop(str(sequence.request.request_id))

    crowd(0)
    driver.finish(crowd)
    assert driver.ahead > 0.8 * driver.steps
    assert driver.reasons.count(FinishReason.STOP) > 5
    assert driver.reasons.count(FinishReason.LENGTH) > 20
    assert driver.pool.num_free == 600
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


def test_a_prompt_that_ends_in_a_step_ahead_draws_with_its_own_seed(tiny: Decoder) -> None:
    answers = []
    for budget in (32, 1024):  # in chunks beside others, and at once
        driver = Driver(tiny, replace(SIZES, num_blocks=600, max_tokens=1024), budget)
        for index in range(8):
            driver.add(f"r{index}", prompt_of(50 + index, index), 3, seed=index, temperature=0.05)
        driver.finish()
        answers.append([driver.answers[f"r{index}"][0] for index in range(8)])
    # Another number of rows takes other kernels, so a close call may fall the other way.
    assert sum(ahead == alone for ahead, alone in zip(*answers, strict=True)) >= 7
