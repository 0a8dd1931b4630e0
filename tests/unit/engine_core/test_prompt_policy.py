"""Where a long prompt is cut, and that no other one is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.core.admission import AdmissionBounds, fit, validate
from headway_engine.core.prompt_policy import PromptPolicy, shorten
from headway_engine.core.request import Request, RequestId, SamplingParams

LONG = tuple(range(20))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (PromptPolicy.REJECT, LONG),
        (PromptPolicy.TRUNCATE_LEFT, LONG[-7:]),
        (PromptPolicy.TRUNCATE_RIGHT, LONG[:7]),
        (PromptPolicy.TRUNCATE_MIDDLE, (0, 1, 2, 3, 17, 18, 19)),
    ],
)
def test_the_policy_says_where_a_long_prompt_is_cut(policy: PromptPolicy, kept: tuple[int, ...]) -> None:
    assert shorten(LONG, 10, 3, policy) == kept


@given(st.integers(1, 60), st.integers(1, 40), st.none() | st.integers(1, 80), st.sampled_from(PromptPolicy))
def test_a_prompt_that_fits_is_left_alone_and_another_fits_afterwards(
    length: int, max_len: int, max_tokens: int | None, policy: PromptPolicy
) -> None:
    ids = tuple(range(length))
    kept = shorten(ids, max_len, max_tokens, policy)
    if length < max_len or policy is PromptPolicy.REJECT:
        assert kept == ids
    elif max_len > 1:
        assert max_len // 2 <= len(kept) < max_len
        assert len(kept) + min(max_tokens or max(1, max_len // 4), max_len // 2) == max_len
        assert list(kept) == sorted(kept)


def test_a_request_for_the_whole_context_keeps_half_of_it_for_its_prompt() -> None:
    assert len(shorten(LONG, 10, 10, PromptPolicy.TRUNCATE_LEFT)) == 5


def test_a_short_prompt_is_not_cut_for_an_answer_that_may_be_long() -> None:
    assert shorten(LONG[:9], 10, 10, PromptPolicy.TRUNCATE_LEFT) == LONG[:9]


def test_a_request_is_cut_by_the_context_and_by_the_kv_cache_and_says_how_much() -> None:
    for bounds in (
        AdmissionBounds(10, 1000, 100, policy=PromptPolicy.TRUNCATE_LEFT),
        AdmissionBounds(1000, 10, 100, policy=PromptPolicy.TRUNCATE_LEFT),
    ):
        request = Request(RequestId("r"), 0.0, prompt_ids=LONG, sampling=SamplingParams(max_tokens=3))
        found = fit(request, bounds)
        assert (found.prompt_ids, found.truncated_tokens) == (LONG[-7:], 13)
        assert validate(found, bounds) is None
        assert validate(request, bounds) is not None


def test_many_words_are_no_reason_to_refuse_a_text_that_will_be_cut() -> None:
    text = Request(RequestId("r"), 0.0, text="a b c d e f g h i j k l")
    rejecting = AdmissionBounds(8, 1000, 100, words_apart=True)
    assert validate(text, rejecting) is not None
    assert validate(text, AdmissionBounds(8, 1000, 100, words_apart=True, policy=PromptPolicy.TRUNCATE_RIGHT)) is None
