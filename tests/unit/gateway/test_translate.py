"""What a client may ask for, what becomes of it, and what is refused by name."""

import json
import re
from typing import Any

import pytest

from headway_gateway import api, errors, translate
from headway_gateway.answers import Choice, Head
from headway_gateway.api import ChatRequest, CompletionRequest
from headway_gateway.chat import render
from headway_gateway.errors import Failure
from headway_rpc import pb
from headway_rpc.client import EngineError

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    return api.parse(ChatRequest, json.dumps({"messages": HELLO, **fields}).encode())


def completion(**fields: Any) -> CompletionRequest:
    return api.parse(CompletionRequest, json.dumps({"prompt": "hello", **fields}).encode())


def refused(**fields: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, pb.SamplingParams(max_tokens=5)),
        ({"max_completion_tokens": 7}, pb.SamplingParams(max_tokens=7)),
        ({"max_completion_tokens": 7, "max_tokens": 7}, pb.SamplingParams(max_tokens=7)),
        (dict.fromkeys(set(ChatRequest.model_fields) - {"messages"}), pb.SamplingParams()),
        ({"temperature": 0, "top_p": 0.5}, pb.SamplingParams(temperature=0, top_p=0.5)),
        ({"top_k": 3, "seed": 2**63, "ignore_eos": True}, pb.SamplingParams(top_k=3, seed=2**63, ignore_eos=True)),
        ({"stop": "x"}, pb.SamplingParams(stop=["x"])),
        ({"stop": ["x", "yy"]}, pb.SamplingParams(stop=["x", "yy"])),
        ({"stop": None, "temperature": None, "n": 1, "logprobs": False, "user": "u"}, pb.SamplingParams()),
        (
            {"presence_penalty": 0.5, "frequency_penalty": -1},
            pb.SamplingParams(presence_penalty=0.5, frequency_penalty=-1),
        ),
        ({"min_p": 0.25, "repetition_penalty": 2}, pb.SamplingParams(min_p=0.25, repetition_penalty=2)),
        ({"logit_bias": {"5": 1, "77": -100}}, pb.SamplingParams(logit_bias={5: 1, 77: -100})),
        ({"logprobs": True}, pb.SamplingParams(logprobs=0)),
        ({"logprobs": True, "top_logprobs": 3}, pb.SamplingParams(logprobs=3)),
        ({"response_format": {"type": "text"}}, pb.SamplingParams()),
        ({"response_format": {"type": "json_object"}}, pb.SamplingParams(json_schema='{"type": "object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}}},
            pb.SamplingParams(json_schema='{"type": "null"}'),
        ),
        ({"structured_outputs": {"json": {"type": "null"}}}, pb.SamplingParams(json_schema='{"type": "null"}')),
        ({"structured_outputs": {"regex": "a+"}}, pb.SamplingParams(regex="a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, pb.SamplingParams(choice=pb.Choices(texts=["a", "b"]))),
    ],
)
def test_parameters_reach_the_engine(fields: dict[str, Any], expected: pb.SamplingParams) -> None:
    found = translate.generate_request(chat(**fields), TEMPLATE).sampling_params
    if fields.get("ignore_eos") is None:
        expected.ignore_eos = False
    assert found == expected


@pytest.mark.parametrize(
    "field",
    [
        {"best_of": 2},
        {"tools": [{"type": "function"}]},
        {"reasoning_effort": "high"},
    ],
)
def test_a_parameter_without_effect_is_refused_by_name(field: dict[str, Any]) -> None:
    (name,) = field
    assert f"{name} is not supported" in refused(**field).message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five.[key]"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_completion_tokens": 7, "max_tokens": 5}, "max_completion_tokens"),
        ({"nobody_knows_it": None}, "nobody_knows_it"),
        ({"priority": "urgent"}, "priority"),
        ({"service_tier": "gold"}, "service_tier"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    failure = refused(**fields)
    assert failure.param == param
    assert failure.message.startswith(param)


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], [[1], [2]], [[1, "a"]], [1.5], [True], ["a", 1], {}])
def test_what_is_no_prompt_is_refused_in_words(prompt: object) -> None:
    with pytest.raises(Failure) as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"
    if prompt is not None:
        assert (
            caught.value.message
            == "prompt: must be a text or a list of token ids; several prompts are several requests"
        )


@pytest.mark.parametrize(
    ("fields", "told", "expected", "code"),
    [
        ({}, "text has at least 9 tokens, allowed are 7", "messages has at least 9 tokens", "context_length_exceeded"),
        ({"max_tokens": 9}, "max_tokens is 9, allowed are 1 to 8", "max_tokens is 9,", None),
        ({"max_completion_tokens": 9}, "max_tokens is 9, allowed", "max_completion_tokens is 9,", None),
        ({"logprobs": True}, "logprobs is 21, allowed", "top_logprobs is 21,", None),
        ({"stop": ""}, "stop[0] has 0 characters", "stop[0] has 0 characters", None),
        ({"logit_bias": {}}, "logit_bias[1] is -inf", "logit_bias[1] is -inf", None),
        ({"response_format": {"type": "json_object"}}, "json_schema: Bad", "response_format: Bad", None),
        ({"structured_outputs": {"json": {}}}, "json_schema: Bad", "structured_outputs.json: Bad", None),
        ({"structured_outputs": {"regex": "("}}, "regex: at 1(8)", "structured_outputs.regex: at 1(8)", None),
    ],
)
def test_an_engine_refuses_a_field_by_the_name_that_it_has_in_the_body(
    fields: dict[str, Any], told: str, expected: str, code: str | None
) -> None:
    import grpc

    prefix = "" if told.startswith("text") else "sampling_params."
    failure = errors.of_call(EngineError(grpc.StatusCode.INVALID_ARGUMENT, prefix + told))
    found = translate.in_words_of(chat(**fields), failure)
    assert found.message.startswith(expected)
    assert found.param == re.findall("[a-z_.]+", expected)[0]
    assert (found.status, found.code) == (400, code)


def test_the_prompt_of_a_completion_is_called_so() -> None:
    for told, code in (
        ("text has 99 characters, allowed", "context_length_exceeded"),
        ("input_ids[0] is 9, the", None),
    ):
        found = translate.in_words_of(completion(), errors.invalid(told, told.split(" ")[0].split("[")[0]))
        assert (found.param, found.code) == ("prompt", code)
        assert found.message.startswith("prompt")
    full = errors.unavailable("text has no place here")
    assert translate.in_words_of(completion(), full) is full


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Failure) as caught:
        api.parse(ChatRequest, body)
    assert caught.value.status == 400


def test_an_answer_of_ours_may_come_back_as_part_of_the_next_turn() -> None:
    complete = pb.GenerateComplete(finish_reason=pb.STOP)
    choice = Choice(0, chat=True)
    choice.take(pb.GenerateChunk(text="hi"))
    choice.take(complete)
    choices: Any = Head(True, "id", 0, "m").whole([choice])["choices"]
    messages = [*HELLO, {**choices[0]["message"], "annotations": [], "tool_calls": None}, *HELLO]
    assert translate.generate_request(chat(messages=messages), TEMPLATE).text.startswith(
        "<user>hello<assistant>hi<user>"
    )
    assert "messages.0.tool_calls" in refused(messages=[{**HELLO[0], "tool_calls": [{"id": "x"}]}]).message


def test_usage_says_what_the_prefix_cache_had_and_what_the_prompt_policy_cut() -> None:
    choice = Choice(0, chat=True)
    choice.take(
        pb.GenerateComplete(
            finish_reason=pb.STOP, prompt_tokens=9, completion_tokens=2, cached_tokens=4, truncated_tokens=7
        )
    )
    assert Head(True, "id", 0, "m").whole([choice])["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4, "truncated_tokens": 7},
    }


def test_a_refused_value_is_not_echoed_whole() -> None:
    assert len(refused(suffix="x" * 500_000).message) < 200


def test_what_contradicts_is_refused() -> None:
    assert refused(top_logprobs=3).message == "top_logprobs needs logprobs to be true"
    both = refused(response_format={"type": "json_object"}, structured_outputs={"regex": "a"})
    assert both.message == "structured_outputs and response_format both say what form the answer has"


def test_a_seed_is_counted_on_from_choice_to_choice() -> None:
    request = pb.GenerateRequest(sampling_params=pb.SamplingParams(seed=2**64 - 1))
    assert [translate.seeded(request, n).sampling_params.seed for n in range(3)] == [2**64 - 1, 0, 1]
    assert not translate.seeded(pb.GenerateRequest(), 2).sampling_params.HasField("seed"), "each draws its own"


def test_stream_options_need_a_stream() -> None:
    assert "stream_options needs stream" in refused(stream_options={"include_usage": True}).message


def test_a_chat_is_rendered_with_the_models_template() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    request = translate.generate_request(chat(messages=messages), TEMPLATE)
    assert request.text == "<system>be brief<user>ab<assistant>"


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    compiled: list[str] = []
    compile_ = ImmutableSandboxedEnvironment.from_string

    def counted(environment: ImmutableSandboxedEnvironment, source: str) -> object:
        compiled.append(source)
        return compile_(environment, source)

    monkeypatch.setattr(ImmutableSandboxedEnvironment, "from_string", counted)
    template = "once {{ messages[0].content }}"
    assert [render(template, [{"role": "user", "content": text}]) for text in "ab"] == ["once a", "once b"]
    assert compiled == [template]


def test_a_chat_without_a_template_is_told_the_other_route() -> None:
    with pytest.raises(Failure, match="use /v1/completions"):
        translate.generate_request(chat(), "")


def test_a_template_that_refuses_the_messages_is_a_bad_request() -> None:
    with pytest.raises(Failure, match="no system here") as caught:
        translate.generate_request(chat(), "{{ raise_exception('no system here') }}")
    assert caught.value.status == 400


def test_a_prompt_may_be_text_or_tokens() -> None:
    assert translate.generate_request(completion(prompt="abc"), "").text == "abc"
    assert list(translate.generate_request(completion(prompt=[1, 2]), "").tokenized.input_ids) == [1, 2]
    assert translate.generate_request(completion(prompt=["abc"]), "").text == "abc"
    assert list(translate.generate_request(completion(prompt=[[1, 2]]), "").tokenized.input_ids) == [1, 2]
    assert translate.generate_request(completion(prompt=[]), "").WhichOneof("input") == "tokenized"
    with pytest.raises(Failure, match="token ids must be"):
        translate.generate_request(completion(prompt=[-1]), "")


def test_a_completion_has_16_tokens_unless_it_says_otherwise() -> None:
    assert translate.generate_request(completion(), "").sampling_params.max_tokens == 16
    assert not translate.generate_request(chat(), TEMPLATE).sampling_params.HasField("max_tokens")


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("INVALID_ARGUMENT", "top_p is 2.0, it must be above 0", 400, "invalid_request_error"),
        ("INVALID_ARGUMENT", "model must be empty or 'a', got 'b'", 404, "invalid_request_error"),
        ("RESOURCE_EXHAUSTED", "8 requests wait", 429, "rate_limit_error"),
        ("UNAVAILABLE", "the engine is draining", 503, "server_error"),
        ("CANCELLED", "the engine dropped the call", 503, "server_error"),
        ("DEADLINE_EXCEEDED", "too late", 504, "timeout_error"),
        ("INTERNAL", "broken", 500, "server_error"),
    ],
)
def test_statuses_of_the_engine_become_those_of_http(code: str, message: str, status: int, kind: str) -> None:
    import grpc

    failure = errors.of_call(EngineError(grpc.StatusCode[code], message, 250))
    assert (failure.status, failure.kind) == (status, kind)
    assert message in failure.message


def test_a_full_queue_says_when_to_come_again() -> None:
    import grpc

    failure = errors.of_call(EngineError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 1250))
    assert failure.headers() == {"Retry-After": "2", "retry-after-ms": "1250"}


def test_the_field_of_a_refusal_is_its_param() -> None:
    import grpc

    failure = errors.of_call(EngineError(grpc.StatusCode.INVALID_ARGUMENT, "sampling_params.top_p is 2.0, it must"))
    assert failure.param == "top_p"


@pytest.mark.parametrize(("reason", "status"), [(pb.DEADLINE, 504), (pb.ABORT, 503), (pb.ERROR, 500)])
def test_an_answer_cut_short_is_an_error(reason: pb.FinishReason, status: int) -> None:
    failure = errors.of_end(pb.GenerateComplete(finish_reason=reason))
    assert failure is not None
    assert failure.status == status


def test_a_form_that_outgrows_its_bounds_in_mid_answer_is_the_clients_mistake() -> None:
    error = "sampling_params.json_schema: Parser Error: Current row has 10001 items; max is 10000"
    failure = errors.of_end(pb.GenerateComplete(finish_reason=pb.ERROR, error=error))
    assert failure is not None
    told = error.removeprefix("sampling_params.")
    assert (failure.status, failure.kind, failure.message) == (400, "invalid_request_error", told)
    assert failure.headers() == {}, "clients would send it again"


@pytest.mark.parametrize(
    ("fields", "header", "expected"),
    [
        ({}, None, pb.PRIORITY_UNSPECIFIED),
        ({"priority": "batch"}, None, pb.PRIORITY_BATCH),
        ({"priority": None}, "realtime", pb.PRIORITY_REALTIME),
        ({}, " Batch ", pb.PRIORITY_BATCH),
        ({"service_tier": "flex"}, None, pb.PRIORITY_BATCH),
        ({"service_tier": "priority"}, None, pb.PRIORITY_REALTIME),
        ({"service_tier": "auto"}, None, pb.PRIORITY_UNSPECIFIED),
        ({"service_tier": "default"}, "interactive", pb.PRIORITY_INTERACTIVE),
        ({"service_tier": "flex", "priority": "batch"}, "batch", pb.PRIORITY_BATCH),
    ],
)
def test_a_request_names_its_class_or_leaves_it_to_the_fleet(
    fields: dict[str, Any], header: str | None, expected: "pb.Priority.ValueType"
) -> None:
    assert translate.generate_request(chat(**fields), TEMPLATE, header).priority == expected
    assert translate.generate_request(completion(**fields), "", header).priority == expected


@pytest.mark.parametrize(
    ("fields", "header", "message", "param"),
    [
        (
            {},
            "urgent",
            "header x-headway-class must be one of realtime, interactive, batch, got 'urgent'",
            "x-headway-class",
        ),
        (
            {"priority": "realtime"},
            "batch",
            "the request names more than one workload class: header x-headway-class says batch, priority says realtime",
            "x-headway-class",
        ),
        (
            {"priority": "realtime", "service_tier": "flex"},
            None,
            "the request names more than one workload class: priority says realtime, service_tier says batch",
            "priority",
        ),
    ],
)
def test_a_class_that_is_unknown_or_contradicts_another_is_refused(
    fields: dict[str, Any], header: str | None, message: str, param: str
) -> None:
    with pytest.raises(Failure) as caught:
        translate.generate_request(chat(**fields), TEMPLATE, header)
    assert (caught.value.status, caught.value.message, caught.value.param) == (400, message, param)
