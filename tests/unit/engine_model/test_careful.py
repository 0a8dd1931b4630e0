"""The rules of sampling that is not plain: constraints, biases, penalties, min-p, log probabilities."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor

from headway_engine.core.batch import Careful, StepFailure
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import SamplingParams
from headway_engine.model.careful import OUT_OF_REACH, CarefulRow, reshape
from headway_engine.model.sampler import Draw, sample

VOCABULARY = 500
TOKENS = (3, 7, 7, 499, 12, 3, 3)
PROMPT = 4  # of the tokens


def logits_of(rows: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(3)) * spread


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


class Broken(Only):
    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        raise ConstraintError("json_schema: too deep")


def draw(sampling: SamplingParams, constraint: Only | None = None, num_sampled: int = 0) -> Draw:
    return Draw(sampling, 11, num_sampled, Careful(TOKENS, PROMPT, constraint))


def shaped(logits: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    return reshape(logits, [CarefulRow(sampling, Careful(TOKENS, PROMPT, None))] * len(logits), None)


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits = logits_of(2)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([TOKENS] * 2), logits.clone())
    torch.testing.assert_close(shaped(logits, SamplingParams(repetition_penalty=1.7)), expected)


def test_presence_counts_a_token_of_the_answer_once_and_frequency_each_time_and_the_prompt_never() -> None:
    logits = logits_of(1)
    change = (shaped(logits, SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)) - logits)[0]
    expected = torch.zeros(VOCABULARY)
    expected[12] = -0.5 - 0.25
    expected[3] = -0.5 - 2 * 0.25
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_min_p_keeps_what_transformers_keeps_at_the_same_temperature(temperature: float) -> None:
    logits = logits_of(3)
    expected = MinPLogitsWarper(0.1)(torch.empty(0), logits / temperature).isfinite()
    kept = shaped(logits, SamplingParams(min_p=0.1, temperature=temperature)) > OUT_OF_REACH
    assert torch.equal(kept, expected)
    assert 1 < int(kept.sum()) < kept.numel() / 2


def test_a_bias_is_added_to_its_token_alone() -> None:
    logits = logits_of(1)
    change = (shaped(logits, SamplingParams(logit_bias=((0, 2.0), (499, -100.0)))) - logits)[0]
    assert change.nonzero().flatten().tolist() == [0, 499]
    torch.testing.assert_close(change[[0, 499]], torch.tensor([2.0, -100.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(temperature=0.0), SamplingParams(top_k=40), SamplingParams(top_p=0.9)]
)
def test_only_allowed_tokens_are_drawn(sampling: SamplingParams) -> None:
    logits = logits_of(200)
    drawn = sample(logits, [draw(sampling, Only(0, 31, 32, 499), n) for n in range(200)])
    assert set(drawn) == {0, 31, 32, 499}


def test_a_constraint_that_meets_a_limit_fails_its_own_row_only() -> None:
    drawn = sample(logits_of(3), [draw(SamplingParams(), one) for one in (Only(5), Broken(), Only(6))])
    assert drawn == (5, StepFailure("json_schema: too deep"), 6)


def test_logits_that_are_not_finite_fail_their_row_also_where_no_allowed_token_has_them() -> None:
    logits = logits_of(2)
    logits[1, 100] = math.nan
    first, second = sample(logits, [draw(SamplingParams(), Only(5)), draw(SamplingParams(), Only(6))])
    assert first == 5
    assert isinstance(second, StepFailure)


def test_a_row_draws_the_same_beside_careful_ones() -> None:
    plain = [Draw(SamplingParams(), 11, n) for n in range(6)]
    alone = sample(logits_of(6), plain)
    mixed = list(plain)
    mixed[1] = draw(SamplingParams(frequency_penalty=2.0, logprobs=3), Only(9), 1)
    mixed[4] = draw(SamplingParams(min_p=0.5), None, 4)
    beside = sample(logits_of(6), mixed)
    assert [beside[n] for n in (0, 2, 3, 5)] == [alone[n] for n in (0, 2, 3, 5)]


def test_log_probabilities_are_those_of_the_model_whatever_is_drawn() -> None:
    logits = logits_of(2)
    expected = logits.log_softmax(-1)
    rows = [
        draw(SamplingParams(temperature=0.1, logprobs=5, logit_bias=((17, 100.0),))),
        draw(SamplingParams(temperature=0.0, logprobs=0), Only(8)),
    ]
    first, second = sample(logits.clone(), rows)
    assert isinstance(first, TokenLogprobs)
    assert isinstance(second, TokenLogprobs)
    assert first.chosen.token_id == 17
    assert first.chosen.logprob == pytest.approx(float(expected[0, 17]), abs=1e-5)
    values, ids = expected[0].topk(5)
    assert [one.token_id for one in first.top] == ids.tolist()
    assert [one.logprob for one in first.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert (second.chosen.token_id, second.top) == (8, ())
    assert second.chosen.logprob == pytest.approx(float(expected[1, 8]), abs=1e-5)
