"""The CUDA executor under the real scheduler: what it samples is what a float32 model would, whatever runs beside it.

What is right is told in `cuda_driver.py`.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("the CUDA executor needs a CUDA device", allow_module_level=True)

import triton
from cuda_driver import EVEN, MARGIN, SIZES, TINY, Driver, logits_of, prepared, prompt_of, worst_margin

from headway_engine.bench.shapes import SHAPES
from headway_engine.core.batch import Batch, Careful, Chunk, StepFailure
from headway_engine.core.request import FinishReason, RequestId, SamplingParams
from headway_engine.model.careful import CarefulRow, reshape
from headway_engine.model.config import ModelConfig
from headway_engine.model.transformer import Decoder
from headway_engine.runtime import cuda_prompts
from headway_engine.runtime.cuda_executor import CudaExecutor

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=[TINY, EVEN], ids=["odd", "even"])
def tiny(request: pytest.FixtureRequest) -> Decoder:
    config: ModelConfig = request.param
    return prepared(config)


def test_answers_are_right_for_any_mix_of_lengths(tiny: Decoder) -> None:
    driver = Driver(tiny)
    for index, length in enumerate([1, 15, 16, 17, 40, 100, 300, 511, 33, 2]):
        driver.add(f"r{index}", prompt_of(length, index), 40)
    driver.finish()
    for name, answer in driver.answers.items():
        assert len(answer) == 40
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


def test_the_last_layer_needs_only_the_tokens_that_sample(tiny: Decoder) -> None:
    sizes = replace(SIZES, num_blocks=400)
    driver = Driver(tiny, sizes, budget=200)
    driver.executor._launches.prompts.graphs = {}  # a graph pads what samples; these steps sample none, one, or more
    for index, length in enumerate([800, 20, 450]):
        driver.add(f"r{index}", prompt_of(length, index), 20)
        driver.step()
        assert driver.answers["r0"] == []
    driver.finish()
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


def test_prompts_that_the_library_gets_padded_are_right_at_the_end_of_a_step_and_before_others(tiny: Decoder) -> None:
    sizes = replace(SIZES, num_blocks=400, max_tokens=4096)
    driver = Driver(tiny, sizes, budget=4096)
    driver.executor._launches.prompts.graphs = {}  # a graph would keep them from the library
    for name, length in {"decode": 20, "first": 950, "second": 1001, "between": 300, "last": 897}.items():
        driver.add(name, prompt_of(length, length), 20)
        if name == "decode":
            driver.step()
    driver.finish()
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


@pytest.mark.parametrize("graphs", [True, False], ids=["small model", "large model"])
def test_no_step_waits_for_a_compiler(tiny: Decoder, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not graphs:
        monkeypatch.setattr(cuda_prompts, "_SMALL_MODEL_BYTES", 0)
    driver = Driver(tiny)
    compiled: list[str] = []
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_post_compile_hook", lambda **event: compiled.append(event["repr"]), raising=True
    )
    for index in range(60):  # every parity of chunk lengths, of the number of chunks and of those that sample
        driver.add(f"r{index}", prompt_of(1 + 7 * index % 90, index), 1 + index % 5, temperature=float(index % 2))
        driver.step()
    driver.finish()
    assert compiled == []


@pytest.mark.parametrize("budget", [256, 40], ids=["decodes ahead", "steps with prompts ahead"])
def test_answers_do_not_depend_on_arrivals_aborts_and_preemptions_beside_them(tiny: Decoder, budget: int) -> None:
    sizes = replace(SIZES, num_blocks=30)  # too few for all: some are preempted
    driver = Driver(tiny, sizes, budget)
    driver.add("first", prompt_of(50, 1), 120)

    def disturb(step: int) -> None:
        if step % 7 == 0 and step < 100:
            driver.add(f"r{step}", prompt_of(20 + step, step), 60)
        if step == 45:
            driver.scheduler.abort(RequestId("r35"), FinishReason.ABORT, driver.now)
            driver.answers.pop("r35")

    driver.finish(disturb)
    assert driver.scheduler.metrics.preemptions > 0
    assert driver.pool.num_free == sizes.num_blocks
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


def test_rows_given_to_newcomers_do_not_cost_a_running_answer_its_token(tiny: Decoder) -> None:
    # There are two rows for each running sequence. Once all have been used, a newcomer takes those that the step at hand
    # has not touched yet, and so do the rows of sequences that already run ahead of it.
    driver = Driver(tiny)
    for index in range(8):
        driver.add(f"long{index}", prompt_of(30 + 40 * index, index), 240)

    def arrive(step: int) -> None:
        if step % 2 == 0 and step < 220:
            driver.add(f"short{step}", prompt_of(20, step), 2)

    driver.finish(arrive)
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


def test_a_seed_draws_the_same_tokens_alone_and_in_company(tiny: Decoder) -> None:
    alone = Driver(tiny)
    alone.add("x", prompt_of(30, 3), 12, seed=77, temperature=0.05)
    alone.finish()
    company = Driver(tiny)
    company.add("x", prompt_of(30, 3), 12, seed=77, temperature=0.05)
    for index in range(20):
        company.add(f"r{index}", prompt_of(30 + index, index), 30, seed=index, temperature=1.0)
    company.finish()
    # Another batch size takes other kernels, so a close call may fall the other way; then the streams part.
    assert alone.answers["x"][:4] == company.answers["x"][:4]


class Only:
    """A constraint that allows some tokens."""

    complete = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        bits = np.zeros(32 * len(mask), dtype=np.uint8)
        bits[list(self.tokens)] = 1
        mask[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def advance(self, token_id: int) -> None:
        assert token_id in self.tokens


CAREFUL: dict[str, dict[str, object]] = {
    "repetition": {"repetition_penalty": 1.5},
    "counts": {"presence_penalty": 1.5, "frequency_penalty": 0.5},
    "bias": {"logit_bias": ((17, 100.0), (1002, 99.5)), "frequency_penalty": 1.0},
    "scores": {"logprobs": 4},
}


def test_careful_rows_are_drawn_from_their_own_logits_beside_plain_ones(tiny: Decoder) -> None:
    driver = Driver(tiny)
    for index in range(6):  # they run ahead, and end while the careful ones go on
        driver.add(f"plain{index}", prompt_of(20 + 31 * index, index), 5 + 6 * index)
    for index, (name, sampling) in enumerate(CAREFUL.items()):
        driver.add(name, prompt_of(15 + 40 * index, 50 + index), 40, **sampling)
    driver.add("only", prompt_of(70, 60), 40, constraint=Only(3, 31, 32, 999), temperature=1.0)
    driver.finish(lambda step: driver.add("late", prompt_of(300, 61), 20, **CAREFUL["counts"]) if step == 9 else None)
    for index in range(6):
        name = f"plain{index}"
        assert worst_margin(tiny, driver.prompts[name], driver.answers[name]) < MARGIN, name
    assert set(driver.answers["only"]) == {3, 31, 32, 999}
    for name, sampling in {**CAREFUL, "late": CAREFUL["counts"]}.items():
        prompt, answer = driver.prompts[name], driver.answers[name]
        params = SamplingParams(**sampling)  # type: ignore[arg-type]
        logits = logits_of(tiny, prompt + answer[:-1])[len(prompt) - 1 :]
        rows = [
            CarefulRow(params, Careful(tuple(prompt + answer[:count]), len(prompt), None))
            for count in range(len(answer))
        ]
        shaped = reshape(logits, rows, None)
        chosen = shaped.gather(1, torch.tensor(answer, device="cuda")[:, None]).squeeze(1)
        assert float(((shaped.amax(1) - chosen) / logits.std(1)).max()) < MARGIN, name
    prompt, found = driver.prompts["scores"], driver.logprobs["scores"]
    logits = logits_of(tiny, prompt + driver.answers["scores"][:-1])[len(prompt) - 1 :]
    expected, spread = logits.log_softmax(-1).tolist(), float(logits.std())
    assert [one.chosen.token_id for one in found] == driver.answers["scores"]
    for one, row in zip(found, expected, strict=True):
        assert len(one.top) == 4
        for candidate in (one.chosen, *one.top):
            assert abs(candidate.logprob - row[candidate.token_id]) < MARGIN * spread


def test_a_careful_stream_draws_the_same_tokens_for_its_seed_as_a_plain_one(tiny: Decoder) -> None:
    answers = []
    for sampling in ({}, {"logprobs": 0}):
        driver = Driver(tiny)
        driver.add("x", prompt_of(30, 3), 12, seed=77, temperature=0.05, **sampling)
        driver.finish()
        answers.append(driver.answers["x"])
    # The head takes another kernel for the row alone, so a close call may fall the other way.
    assert answers[0][:4] == answers[1][:4]


def test_one_failed_row_ends_its_request_and_no_other(tiny: Decoder) -> None:
    model = prepared(TINY)
    model.embed.data[5] = torch.nan
    executor = CudaExecutor(model, SIZES)
    executor.begin()
    greedy = SamplingParams(temperature=0.0)
    chunks = tuple(
        Chunk(index, (token, token), 0, (index + 1,), True, greedy, 0, 0) for index, token in enumerate((3, 5))
    )
    first, second = executor.run(Batch(chunks))
    assert isinstance(first, int)
    assert isinstance(second, StepFailure)


@pytest.mark.parametrize("length", [897, 960, 1000])
def test_a_long_prompt_that_has_a_step_of_its_own_is_answered_from_its_graph(tiny: Decoder, length: int) -> None:
    driver = Driver(tiny, replace(SIZES, max_tokens=1024), budget=1024)
    graphs = driver.executor._launches.prompts.whole
    assert list(graphs) == [1024]
    replays = []
    replay = graphs[1024].graph.replay
    graphs[1024] = replace(graphs[1024], graph=Spy(lambda: (replays.append(length), replay())[1]))  # type: ignore[arg-type]
    driver.add("long", prompt_of(length, 1), 20)
    # A shorter one takes the graph after it: nothing of the longer one may be left.
    driver.finish(lambda step: driver.add("next", prompt_of(length - 40, 2), 20) if step == 5 else None)
    assert replays
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


@pytest.mark.parametrize(
    ("small", "budget", "longer"),
    [(True, 250, 1), (False, 250, 1), (False, 2048, 5)],
    ids=["small model", "large model", "large model, large steps"],
)
def test_prompts_beside_running_answers_wait_for_no_launches(
    tiny: Decoder, small: bool, budget: int, longer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(cuda_prompts, "_SMALL_MODEL_BYTES", 0)
    sizes = replace(SIZES, num_blocks=600 * longer, max_seqs=70, max_tokens=budget)
    driver = Driver(tiny, sizes, budget)
    at_once: list[object] = []
    monkeypatch.setattr(driver.executor._launches.prompts, "_forward", lambda *step: at_once.append(step))
    # From one decode to more than a graph's smallest room; several chunks a step, the last one cut.
    for index in range(60):
        driver.add(f"r{index}", prompt_of((20 + 37 * index % 150) * longer, index), 40)
        driver.step()
    driver.finish()
    assert at_once == []
    for name, answer in driver.answers.items():
        assert worst_margin(tiny, driver.prompts[name], answer) < MARGIN, name


class Spy:
    """A graph whose replays are counted."""

    def __init__(self, replay: Callable[[], object]) -> None:
        self.replay = replay


@pytest.mark.parametrize("name", ["smol135m", "qwen06b", "llama8b"])
def test_the_measured_shapes_answer_as_a_float32_model_does(name: str) -> None:
    config = replace(SHAPES[name], num_layers=6, tie_word_embeddings=False)
    model = prepared(config)
    driver = Driver(model, replace(SIZES, num_blocks=900, max_seqs=48, max_tokens=2048), budget=2048)
    for index, length in enumerate([5, 100, 700, 900]):
        driver.add(f"r{index}", prompt_of(length, index, config.vocab_size), 24)
    driver.finish(lambda step: driver.add("late", prompt_of(64, 9, config.vocab_size), 30) if step == 10 else None)
    for request, answer in driver.answers.items():
        assert worst_margin(model, driver.prompts[request], answer) < MARGIN, request
