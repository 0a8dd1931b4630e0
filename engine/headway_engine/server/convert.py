"""Requests and answers between protobuf and the core: the only place that knows both.

Inward, `to_request` checks what only the wire can get wrong (no input, an unknown enum value, another model's name); the
values and their ranges are `core.admission`'s business. What is wrong comes back as `Rejected`, whose message names the
field as the proto writes it. Outward, an item of a token stream becomes a chunk or the completion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headway_engine.core.constraint import ConstraintKind, ConstraintSpec
from headway_engine.core.logprobs import Candidate, TokenLogprobs
from headway_engine.core.request import (
    Finished,
    FinishReason,
    Priority,
    Rejected,
    Request,
    RequestId,
    SamplingParams,
    StatusCode,
)
from headway_engine.runtime.loaded import ModelInfo
from headway_engine.runtime.stats import Loads
from headway_engine.server.ports import StreamItemView
from headway_rpc import pb

CLASSES = {
    pb.PRIORITY_REALTIME: Priority.REALTIME,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BATCH: Priority.BATCH,
}
MAX_WAITED_MS = 7 * 24 * 3_600_000  # no work waits for longer
CLASS_NUMBERS = {kind: number for number, kind in CLASSES.items()}
_FINISH_REASONS = {
    FinishReason.STOP: pb.STOP,
    FinishReason.LENGTH: pb.LENGTH,
    FinishReason.ABORT: pb.ABORT,
    FinishReason.DEADLINE: pb.DEADLINE,
    FinishReason.ERROR: pb.ERROR,
    FinishReason.GIVEN_BACK: pb.GIVEN_BACK,
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the transport knows of a request beside its message.

    Attributes:
        now_s: monotonic time of arrival.
        timeout_s: what is left of the call's deadline; None when it has none.
        fallback_id: the request's id when the client chose none.
    """

    now_s: float
    timeout_s: float | None
    fallback_id: str


def to_request(message: pb.GenerateRequest, arrival: Arrival, served_model: str) -> Request | Rejected:
    """Turn a wire request into a core one, or say which field is wrong."""
    if message.model not in ("", served_model):
        return _invalid(f"model must be empty or {served_model!r}, got {message.model[:64]!r}")
    if message.priority not in (pb.PRIORITY_UNSPECIFIED, *CLASSES):
        return _invalid(f"priority must be one of {', '.join(pb.Priority.keys())}, got {message.priority}")
    if message.waited_ms > MAX_WAITED_MS:
        return _invalid(f"waited_ms is {message.waited_ms}, it must be at most {MAX_WAITED_MS}")
    prompt = _prompt(message)
    if isinstance(prompt, Rejected):
        return prompt
    text, prompt_ids = prompt
    timeout_s = arrival.timeout_s
    if message.timeout_ms:
        timeout_s = min(message.timeout_ms / 1000, math.inf if timeout_s is None else timeout_s)
    return Request(
        request_id=RequestId(message.request_id or arrival.fallback_id),
        arrival_s=arrival.now_s - message.waited_ms / 1000,
        text=text,
        prompt_ids=prompt_ids,
        sampling=_sampling(message.sampling_params),
        priority=CLASSES.get(message.priority),
        deadline_s=None if timeout_s is None else arrival.now_s + timeout_s,
        cache_salt=message.cache_salt,
        moved=message.waited_ms > 0,
    )


def to_chunk(token_ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprobs]) -> pb.GenerateChunk:
    """Tokens since the last message."""
    return pb.GenerateChunk(token_ids=token_ids, text=text, logprobs=map(_logprobs, logprobs))


def to_complete(finished: Finished, text: str, logprobs: Sequence[TokenLogprobs]) -> pb.GenerateComplete:
    """The end of an answer; `text` and `logprobs` are what no chunk has carried yet."""
    return pb.GenerateComplete(
        output_ids=finished.output_ids,
        finish_reason=_FINISH_REASONS[finished.reason],
        prompt_tokens=finished.prompt_tokens,
        completion_tokens=len(finished.output_ids),
        cached_tokens=finished.cached_tokens,
        truncated_tokens=finished.truncated_tokens,
        matched_stop=finished.matched_stop,
        queue_ms=finished.queue_ms,
        ttft_ms=finished.ttft_ms,
        error=finished.error,
        text=text,
        logprobs=map(_logprobs, logprobs),
    )


def to_response(item: StreamItemView) -> pb.GenerateResponse:
    """One item of a stream as a message of `Generate`."""
    if item.finished is not None:
        return pb.GenerateResponse(complete=to_complete(item.finished, item.text, item.logprobs))
    return pb.GenerateResponse(chunk=to_chunk(item.token_ids, item.text, item.logprobs))


def to_model_info(info: ModelInfo) -> pb.ModelInfo:
    """The loaded model."""
    return pb.ModelInfo(
        model=info.model,
        architecture=info.architecture,
        dtype=info.dtype,
        device=info.device,
        max_model_len=info.max_model_len,
        vocab_size=info.vocab_size,
        eos_token_ids=info.eos_token_ids,
        engine_version=info.engine_version,
        chat_template=info.chat_template,
    )


def to_loads(loads: Loads) -> pb.Loads:
    """Gauges of the moment."""
    return pb.Loads(
        num_running=loads.num_running,
        num_waiting=loads.num_waiting,
        num_total=loads.num_total,
        used_tokens=loads.used_tokens,
        max_total_num_tokens=loads.max_total_num_tokens,
        token_usage=loads.token_usage,
        gen_throughput=loads.gen_throughput,
        max_running_requests=loads.max_running_requests,
        waiting_prompt_tokens=loads.waiting_prompt_tokens,
        draining=loads.draining,
        num_waiting_batch=loads.num_waiting_batch,
        waiting_batch_prompt_tokens=loads.waiting_batch_prompt_tokens,
        room_for_batch=loads.room_for_batch,
        default_class=CLASS_NUMBERS[loads.default_class],
        boot_id=loads.boot_id,
    )


def _prompt(message: pb.GenerateRequest) -> tuple[str | None, tuple[int, ...]] | Rejected:
    match message.WhichOneof("input"):
        case "text":
            return message.text, ()
        case "tokenized":
            return None, tuple(message.tokenized.input_ids)
        case _:
            return _invalid("input is missing: one of text and tokenized is required")


def _sampling(message: pb.SamplingParams) -> SamplingParams:
    default = SamplingParams()
    return SamplingParams(
        temperature=message.temperature if message.HasField("temperature") else default.temperature,
        top_p=message.top_p if message.HasField("top_p") else default.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=(
            message.repetition_penalty if message.HasField("repetition_penalty") else default.repetition_penalty
        ),
        logit_bias=tuple(sorted(message.logit_bias.items())),
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        constraint=_constraint(message),
        seed=message.seed if message.HasField("seed") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        skip_special_tokens=message.skip_special_tokens if message.HasField("skip_special_tokens") else True,
    )


def _constraint(message: pb.SamplingParams) -> ConstraintSpec | None:
    match message.WhichOneof("constraint"):
        case "json_schema":
            return ConstraintSpec(ConstraintKind.JSON_SCHEMA, message.json_schema)
        case "regex":
            return ConstraintSpec(ConstraintKind.REGEX, message.regex)
        case "choice":
            return ConstraintSpec(ConstraintKind.CHOICE, "", tuple(message.choice.texts))
        case _:
            return None


def _logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(chosen=_candidate(logprobs.chosen), top=map(_candidate, logprobs.top))


def _candidate(candidate: Candidate) -> pb.Candidate:
    return pb.Candidate(token_id=candidate.token_id, logprob=candidate.logprob, text=candidate.text)


def _invalid(message: str) -> Rejected:
    return Rejected(StatusCode.INVALID_ARGUMENT, message)
