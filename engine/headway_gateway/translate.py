"""From OpenAI's requests to the engine's. Pure."""

import json
from dataclasses import replace

from headway_gateway import chat, classes
from headway_gateway.api import ChatRequest, CompletionRequest, Sampled
from headway_gateway.errors import Failure, invalid
from headway_rpc import pb


def generate_request(
    body: ChatRequest | CompletionRequest, template: str, header: str | None = None
) -> pb.GenerateRequest:
    """The engine's request. `template`: the model's chat template, "" when it has none; `header`: `x-headway-class`.

    Raises:
        Failure: 400, the chat cannot become a prompt, or its class is none.
    """
    request = pb.GenerateRequest(
        sampling_params=_sampling(body),
        priority=classes.wanted(header, body.priority, body.service_tier),
        model=body.model,
        cache_salt=body.cache_salt,
    )
    if isinstance(body, ChatRequest):
        request.text = _prompt(body, template)
    elif isinstance(body.prompt, str):
        request.text = body.prompt
    else:
        if any(not 0 <= token < 2**32 for token in body.prompt):
            raise invalid("prompt: token ids must be 0 to 4294967295", "prompt")
        request.tokenized.input_ids.extend(body.prompt)
        request.tokenized.SetInParent()
    return request


def _prompt(body: ChatRequest, template: str) -> str:
    if not template:
        raise invalid("messages: the model has no chat template; use /v1/completions", "messages")
    try:
        return chat.render(template, [message.plain() for message in body.messages])
    except chat.ChatError as error:
        raise invalid(f"messages: {error}", "messages") from None


def in_words_of(body: ChatRequest | CompletionRequest, failure: Failure) -> Failure:
    """An engine's refusal, with the name that its field has in the body."""
    field, message = failure.param, failure.message
    if failure.status != 400 or field is None or not message.startswith(field):
        return failure
    schema = "response_format" if body.structured_outputs is None else "structured_outputs.json"
    names = {"text": "prompt", "input_ids": "prompt", "json_schema": schema}
    names |= {one: f"structured_outputs.{one}" for one in ("regex", "choice")}
    if isinstance(body, ChatRequest):
        newer = body.max_completion_tokens is not None
        names |= {"text": "messages", "logprobs": "top_logprobs"} | (
            {"max_tokens": "max_completion_tokens"} if newer else {}
        )
    name = names.get(field, field)
    # Clients look for this code: they shorten the prompt and ask again.
    too_long = field in ("text", "input_ids") and message.startswith(f"{field} has ")
    code = "context_length_exceeded" if too_long else failure.code
    return replace(failure, message=name + message.removeprefix(field), param=name, code=code)


def seeded(request: pb.GenerateRequest, index: int) -> pb.GenerateRequest:
    """The request for the choice of that index: a given seed is counted on, so that the choices differ."""
    choice = pb.GenerateRequest()
    choice.CopyFrom(request)
    if request.sampling_params.HasField("seed"):
        choice.sampling_params.seed = (request.sampling_params.seed + index) % 2**64
    return choice


def _sampling(body: ChatRequest | CompletionRequest) -> pb.SamplingParams:
    params = pb.SamplingParams(
        max_tokens=body.longest,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty,
        logit_bias=body.logit_bias,
        logprobs=body.candidates,
        seed=body.seed,
        stop=body.stop or (),
        ignore_eos=body.ignore_eos,
    )
    _constrain(params, body)
    return params


def _constrain(params: pb.SamplingParams, body: Sampled) -> None:
    wanted, named = body.structured_outputs, body.response_format
    if wanted is not None:
        if wanted.form is not None:
            params.json_schema = json.dumps(wanted.form)
        elif wanted.regex is not None:
            params.regex = wanted.regex
        else:
            params.choice.texts.extend(wanted.choice or ())
            params.choice.SetInParent()
    elif named is not None and named.type != "text":
        params.json_schema = json.dumps(named.json_schema.form if named.json_schema else {"type": "object"})
