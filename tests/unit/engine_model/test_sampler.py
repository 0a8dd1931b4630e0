"""The rules of sampling."""

import pytest
import torch

from headway_engine.core.batch import StepFailure
from headway_engine.core.request import SamplingParams
from headway_engine.model.sampler import CANDIDATES, Draw, sample

VOCABULARY = 4096


def logits_of(rows: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(7)) * spread


def draws(count: int, **sampling: float) -> list[Draw]:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]  # the tests name valid fields
    return [Draw(params, seed=11, num_sampled=index) for index in range(count)]


def test_temperature_zero_takes_the_largest_logit() -> None:
    logits = logits_of(5)
    assert list(sample(logits, draws(5, temperature=0.0))) == logits.argmax(-1).tolist()


def test_top_k_one_equals_greedy_at_any_temperature() -> None:
    logits = logits_of(5)
    assert list(sample(logits, draws(5, temperature=5.0, top_k=1))) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-9, 1e-5])
def test_a_tiny_temperature_is_greedy_and_finite(temperature: float) -> None:
    logits = logits_of(5)
    assert list(sample(logits, draws(5, temperature=temperature))) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("top_k", [2, 17, CANDIDATES + 500])
def test_top_k_draws_only_from_the_k_largest(top_k: int) -> None:
    logits = logits_of(1, spread=0.1).expand(300, -1)
    allowed = set(logits[0].topk(top_k).indices.tolist())
    drawn = set(sample(logits, draws(300, temperature=1.0, top_k=top_k)))
    assert drawn <= allowed
    assert len(drawn) > 1


@pytest.mark.parametrize(("top_p", "spread"), [(0.3, 3.0), (0.9, 3.0), (0.9, 0.1)])
def test_top_p_draws_only_from_the_smallest_set_that_reaches_the_mass(top_p: float, spread: float) -> None:
    # At a spread of 0.1 nearly all of the vocabulary is needed, far more than the candidates looked at first.
    logits = logits_of(1, spread).expand(400, -1)
    probabilities, order = logits[0].double().softmax(-1).sort(descending=True)
    size = int((probabilities.cumsum(-1) < top_p).sum()) + 1
    drawn = set(sample(logits, draws(400, temperature=1.0, top_p=top_p)))
    assert drawn <= set(order[:size].tolist())
    # The same random numbers reach the far end of the set, not only its head.
    ranks = {token: rank for rank, token in enumerate(order.tolist())}
    assert max(ranks[token] for token in drawn if isinstance(token, int)) >= size // 3


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).expand(300, -1)
    # Of the two largest, 0.4 / 0.7 = 0.57 is enough for 0.5; of all four it would not be.
    assert set(sample(logits, draws(300, temperature=1.0, top_k=2, top_p=0.5))) == {0}
    assert set(sample(logits, draws(300, temperature=1.0, top_p=0.5))) == {0, 1}


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    wanted = torch.tensor([0.5, 0.25, 0.15, 0.1])
    rows = 8000
    drawn = torch.tensor(sample(wanted.log().expand(rows, -1), draws(rows, temperature=1.0)))
    shares = torch.bincount(drawn, minlength=4) / rows
    assert torch.allclose(shares, wanted, atol=0.02)


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "top_k": 50}])
def test_a_seed_gives_the_same_token_whatever_shares_the_batch(sampling: dict[str, float]) -> None:
    row = logits_of(1)
    mine = Draw(SamplingParams(**sampling), seed=42, num_sampled=3)  # type: ignore[arg-type]  # as in draws()
    alone = sample(row, [mine])[0]
    for size in (1, 3, 7):
        others = [
            *draws(size, temperature=0.0),
            *draws(size, temperature=1.3),
            *draws(size, temperature=1.0, top_p=0.5),
        ]
        batch = torch.cat((logits_of(len(others), spread=1.0), row))
        assert sample(batch, [*others, mine])[-1] == alone


def test_seeds_and_positions_give_different_numbers() -> None:
    params = SamplingParams()
    numbers = {Draw(params, seed, count).uniform() for seed in (0, 1, 2, -1, 2**63) for count in range(50)}
    assert len(numbers) == 250
    assert all(0 <= number < 1 for number in numbers)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_fail_their_own_row_only(bad: float) -> None:
    logits = logits_of(3)
    logits[1, 100] = bad
    for sampling in ({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}):
        first, second, third = sample(logits, draws(3, **sampling))
        assert isinstance(second, StepFailure)
        assert isinstance(first, int)
        assert isinstance(third, int)
