"""What went wrong, as HTTP status and as the object that OpenAI clients read."""

import re
from dataclasses import dataclass

import grpc

from headway_rpc import pb
from headway_rpc.client import EngineError

_OF_SAMPLING = "sampling_params."
# How an engine's refusal begins: with the field, as the engine calls it.
_FIELD = re.compile(r"[a-z_]+")
_FIELDS = frozenset(pb.SamplingParams.DESCRIPTOR.fields_by_name) | {"text", "input_ids", "cache_salt"}
RETRY_AFTER_MS = 1000  # when an engine gave no hint


@dataclass(slots=True, eq=False)  # not frozen: a raised exception gets its traceback
class Failure(Exception):  # noqa: N818 - it is an answer, raised
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        kind: OpenAI's `type`.
        message: one sentence naming the field and the limit.
        param: the field, where it is known.
        code: OpenAI's `code`, for the errors that have one.
        retry_after_ms: when to try again; 0 for errors that a retry does not cure.
    """

    status: int
    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_ms: int = 0

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, object]:
        """The JSON object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After` has whole seconds, so the exact hint goes along."""
        if not self.retry_after_ms:
            return {}
        seconds = -(-self.retry_after_ms // 1000)
        return {"Retry-After": str(seconds), "retry-after-ms": str(self.retry_after_ms)}


def invalid(message: str, param: str | None = None) -> Failure:
    """The request is wrong; sent again it fails again."""
    return Failure(400, "invalid_request_error", message, param)


def unavailable(message: str) -> Failure:
    """Nothing was started; try again."""
    return Failure(503, "server_error", message, retry_after_ms=RETRY_AFTER_MS)


def of_call(error: EngineError) -> Failure:
    """A call that an engine refused or broke off."""
    match error.code:
        case grpc.StatusCode.INVALID_ARGUMENT if error.message.startswith("model "):
            return Failure(404, "invalid_request_error", error.message, "model", "model_not_found")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return _wrong_field(error.message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            hint = error.retry_after_ms or RETRY_AFTER_MS
            return Failure(429, "rate_limit_error", error.message, code="rate_limit_exceeded", retry_after_ms=hint)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # Nobody here cancelled it: an engine's gRPC drops calls when more than 10,000 of them wait to be looked at.
            dropped = error.code is grpc.StatusCode.CANCELLED
            return unavailable("the engine dropped the call: too many came at once" if dropped else error.message)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Failure(504, "timeout_error", error.message)
        case _:
            return Failure(500, "server_error", str(error))


def _wrong_field(message: str) -> Failure:
    """A refusal of the engine's, without where its protocol keeps the field."""
    told = message.removeprefix(_OF_SAMPLING)
    begins = _FIELD.match(told)
    return invalid(told, begins[0] if begins is not None and begins[0] in _FIELDS else None)


def of_end(complete: pb.GenerateComplete) -> Failure | None:
    """An answer that ended before its time; None for one that is whole."""
    match complete.finish_reason:
        case pb.STOP | pb.LENGTH:
            return None
        case pb.DEADLINE:
            return Failure(504, "timeout_error", f"the deadline passed after {complete.completion_tokens} tokens")
        case pb.ABORT | pb.GIVEN_BACK:
            return unavailable("the engine ended the request: it is going away")
        case _ if complete.error.startswith(_OF_SAMPLING):
            return _wrong_field(complete.error)  # the form outgrew its bounds while it was written, and would again
        case _:
            return Failure(500, "server_error", complete.error or "the engine failed on this request")
