import math
from collections.abc import Iterator

import pytest

from headway_engine.core.admission import AdmissionBounds, validate
from headway_engine.core.constraint import ConstraintKind, ConstraintSpec
from headway_engine.core.request import Request, RequestId, SamplingParams, StatusCode

REGEX = ConstraintSpec(ConstraintKind.REGEX, "a+")
BOUNDS = AdmissionBounds(max_model_len=32, kv_capacity_tokens=1000, vocab_size=300)


def choice(*texts: str) -> SamplingParams:
    return SamplingParams(constraint=ConstraintSpec(ConstraintKind.CHOICE, "", texts))


def request(**changes: object) -> Request:
    fields: dict[str, object] = {"request_id": RequestId("a"), "arrival_s": 0.0, "prompt_ids": (1, 2)}
    return Request(**(fields | changes))  # type: ignore[arg-type]  # each test passes the field's own type


@pytest.mark.parametrize(
    "wanted",
    [
        request(),
        request(prompt_ids=tuple(range(31))),
        request(prompt_ids=(), text="x" * 512),
        request(sampling=SamplingParams(temperature=0.0, top_p=1.0, top_k=0, max_tokens=32, seed=2**64 - 1)),
        request(sampling=SamplingParams(min_p=1.0, presence_penalty=-2.0, frequency_penalty=2.0, logprobs=0)),
        request(sampling=SamplingParams(logit_bias=((299, -100.0),), repetition_penalty=0.1, constraint=REGEX)),
        request(sampling=SamplingParams(stop=("x" * 256,) * 16, stop_token_ids=(0, 299))),
    ],
)
def test_what_is_within_the_limits_is_served(wanted: Request) -> None:
    assert validate(wanted, BOUNDS) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (request(prompt_ids=()), "input_ids is empty"),
        (request(text=""), "text is empty"),
        (request(text="x" * 513), "text has 513 characters, allowed are 512"),
        (request(prompt_ids=(1,) * 32), "input_ids has 32 tokens, allowed are 31 (max_model_len 32"),
        (request(prompt_ids=(1, 300)), "input_ids[1] is 300, the model's token ids are 0 to 299"),
        (request(prompt_ids=(-1,)), "input_ids[0] is -1"),
        (request(request_id=RequestId("x" * 257)), "request_id has 257 characters"),
        (request(sampling=SamplingParams(max_tokens=0)), "sampling_params.max_tokens is 0, allowed are 1 to 32"),
        (request(sampling=SamplingParams(max_tokens=2**32 - 1)), "sampling_params.max_tokens is 4294967295"),
        (request(sampling=SamplingParams(temperature=math.nan)), "sampling_params.temperature is nan"),
        (request(sampling=SamplingParams(temperature=math.inf)), "sampling_params.temperature is inf"),
        (request(sampling=SamplingParams(temperature=-0.1)), "sampling_params.temperature is -0.1"),
        (request(sampling=SamplingParams(top_p=0.0)), "sampling_params.top_p is 0.0, it must be above 0"),
        (request(sampling=SamplingParams(top_p=1.01)), "sampling_params.top_p is 1.01"),
        (request(sampling=SamplingParams(top_p=math.nan)), "sampling_params.top_p is nan"),
        (request(sampling=SamplingParams(top_k=-1)), "sampling_params.top_k is -1"),
        (request(sampling=SamplingParams(min_p=1.5)), "sampling_params.min_p is 1.5, it must be 0 to 1"),
        (request(sampling=SamplingParams(min_p=math.nan)), "sampling_params.min_p is nan"),
        (
            request(sampling=SamplingParams(presence_penalty=2.5)),
            "sampling_params.presence_penalty is 2.5, allowed are -2 to 2",
        ),
        (request(sampling=SamplingParams(frequency_penalty=math.nan)), "sampling_params.frequency_penalty is nan"),
        (
            request(sampling=SamplingParams(repetition_penalty=0.0)),
            "sampling_params.repetition_penalty is 0.0, allowed are 0.01 to 100 (1 is off)",
        ),
        (
            # a model's logits divided by it are infinite
            request(sampling=SamplingParams(repetition_penalty=1e-40)),
            "sampling_params.repetition_penalty is 1e-40, allowed are 0.01 to 100",
        ),
        (request(sampling=SamplingParams(repetition_penalty=math.inf)), "sampling_params.repetition_penalty is inf"),
        (request(sampling=SamplingParams(logprobs=21)), "sampling_params.logprobs is 21, allowed are 0 to 20"),
        (
            request(sampling=SamplingParams(logit_bias=((300, 1.0),))),
            "sampling_params.logit_bias has token 300, the model's are 0 to 299",
        ),
        (
            request(sampling=SamplingParams(logit_bias=((3, math.nan),))),
            "sampling_params.logit_bias[3] is nan, allowed",
        ),
        (
            request(sampling=SamplingParams(logit_bias=((3, 0.0),) * 301)),
            "sampling_params.logit_bias has 301 tokens, allowed are 300",
        ),
        (
            request(sampling=SamplingParams(constraint=REGEX, ignore_eos=True)),
            "sampling_params.ignore_eos is True, but an answer",
        ),
        (request(sampling=choice()), "sampling_params.choice has 0 texts, allowed are 1 to 1000"),
        (request(sampling=choice(*["a"] * 1001)), "sampling_params.choice has 1001 texts, allowed are 1 to 1000"),
        (request(sampling=choice("a", "")), "sampling_params.choice[1] is empty"),
        (request(sampling=choice("a" * 65537)), "sampling_params.choice has 65537 characters, allowed are 65536"),
        (
            request(sampling=SamplingParams(constraint=ConstraintSpec(ConstraintKind.JSON_SCHEMA, " " * 65537))),
            "sampling_params.json_schema has 65537 characters, allowed are 65536",
        ),
        (request(sampling=SamplingParams(seed=2**64)), "sampling_params.seed is 18446744073709551616"),
        (request(sampling=SamplingParams(stop=("a",) * 17)), "sampling_params.stop has 17 strings, allowed are 16"),
        (request(sampling=SamplingParams(stop=("a", ""))), "sampling_params.stop[1] has 0 characters"),
        (request(sampling=SamplingParams(stop=("a" * 257,))), "sampling_params.stop[0] has 257 characters"),
        (request(sampling=SamplingParams(stop_token_ids=(300,))), "sampling_params.stop_token_ids[0] is 300"),
        (request(sampling=SamplingParams(stop_token_ids=(1,) * 257)), "sampling_params.stop_token_ids has 257 ids"),
    ],
)
def test_what_is_wrong_is_refused_naming_field_and_limit(wanted: Request, message: str) -> None:
    rejected = validate(wanted, BOUNDS)
    assert rejected is not None
    assert rejected.code is StatusCode.INVALID_ARGUMENT
    assert rejected.message.startswith(message)


def test_a_prompt_larger_than_the_kv_cache_is_refused() -> None:
    bounds = AdmissionBounds(max_model_len=4096, kv_capacity_tokens=16, vocab_size=300)
    assert validate(request(prompt_ids=(1,) * 15), bounds) is None
    rejected = validate(request(prompt_ids=(1,) * 16), bounds)
    assert rejected is not None
    assert "the KV cache holds 16" in rejected.message


class Unread(tuple[int, ...]):
    """Token ids that nobody may look at."""

    __slots__ = ()

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("the ids were read")

    __getitem__ = __iter__  # type: ignore[assignment]


def test_a_prompt_that_is_too_long_is_refused_by_its_length_alone() -> None:
    rejected = validate(request(prompt_ids=Unread(range(260_000))), BOUNDS)
    assert rejected is not None
    assert "260000 tokens" in rejected.message


def test_more_words_than_tokens_are_refused_before_tokenizing_where_words_are_apart() -> None:
    apart = AdmissionBounds(max_model_len=32, kv_capacity_tokens=1000, vocab_size=300, words_apart=True)
    words = request(prompt_ids=(), text="a " * 32)
    refused = validate(words, apart)
    assert refused is not None
    assert "text has at least 32 tokens, allowed are 31 (max_model_len 32" in refused.message
    assert validate(words, BOUNDS) is None, "such a tokenizer must count itself"
    assert validate(request(prompt_ids=(), text="a\u00a0" * 32), apart) is None, "only ASCII white space parts words"
