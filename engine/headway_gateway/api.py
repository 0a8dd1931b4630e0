"""The bodies of OpenAI's requests, as far as an engine can act on them.

Nothing is silently ignored: a parameter that is known and has no effect here is refused unless it has the value that it has
when left out, and so is one that nobody knows. `null` is what a known parameter has when it is left out.
"""

from collections.abc import Container
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from headway_gateway.errors import Failure, invalid

# Parameters of OpenAI's API that no engine acts on yet, with the values that ask for nothing.
_INERT: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
MOST_CHOICES = 16
LONGEST_ECHO = 80  # characters of a refused value that its refusal repeats
# What an answer of ours, or of OpenAI's, holds beside its text: a client sends it back with the next turn.
_EMPTY_PARTS = ("refusal", "tool_calls", "function_call", "audio", "annotations")
# For the provider's own records: they change no answer.
_RECORDS = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("must be a text, or a list of parts of type text")  # noqa: TRY004 - pydantic wants it
    return content


def _one_prompt(prompt: object) -> object:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) or (isinstance(prompt, list) and all(type(token) is int for token in prompt)):
        return prompt
    raise ValueError("must be a text or a list of token ids; several prompts are several requests")


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(_Body):
    """`stream_options`."""

    include_usage: bool = False


class NamedSchema(_Body):
    """`response_format.json_schema`; every schema is enforced, `strict` or not."""

    name: str = ""
    description: str | None = None
    strict: bool | None = None
    form: dict[str, object] = Field(alias="schema")


class ResponseFormat(_Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _a_schema_where_it_is_due(self) -> "ResponseFormat":
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError('json_schema is needed with type "json_schema", and only there')
        return self


class StructuredOutputs(_Body):
    """`structured_outputs`: one form that the answer must have, as other engines' clients write it."""

    form: dict[str, object] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if sum(one is not None for one in (self.form, self.regex, self.choice)) != 1:
            raise ValueError("give one of json, regex and choice")
        return self


class Sampled(_Body):
    """What both kinds of completion have; ranges are the engine's to check, it names them."""

    model: str = ""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=0, lt=2**32)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(default=None, ge=0, lt=2**32)
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[Annotated[int, Field(strict=False, ge=0, lt=2**32)], float] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    stop: Annotated[list[str] | None, BeforeValidator(_one_or_many)] = None
    ignore_eos: bool = False
    cache_salt: str = ""
    priority: Literal["realtime", "interactive", "batch"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_inert(cls, body: object) -> object:
        if not isinstance(body, dict):
            raise ValueError("the body must be a JSON object")  # noqa: TRY004 - pydantic wants it
        kept = {}
        for name, value in body.items():
            if name in _INERT:
                # Types count: True is 1 to Python, and `n: true` is nobody's intention.
                if value is not None and not any(value == one and type(value) is type(one) for one in _INERT[name]):
                    raise ValueError(f"{name} is not supported, got {_shown(value)}")
            elif name not in _RECORDS and (value is not None or name not in cls.model_fields):
                kept[name] = value
        return kept

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "Sampled":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> "Sampled":
        if self.structured_outputs is not None and self.response_format not in (None, ResponseFormat(type="text")):
            raise ValueError("structured_outputs and response_format both say what form the answer has")
        return self


class Part(_Body):
    """A piece of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_parts)]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_parts(cls, message: object) -> object:
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if name not in _EMPTY_PARTS or value not in (None, [])}

    def plain(self) -> dict[str, str]:
        """As chat templates take it; they know `developer` by its older name."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.text for part in self.content)}


class ChatRequest(Sampled):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, lt=2**32)
    max_completion_tokens: int | None = Field(default=None, ge=0, lt=2**32)

    @property
    def longest(self) -> int | None:
        """`max_tokens` by its new name or its old one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def candidates(self) -> int | None:
        """Best candidates to report of each token; None: no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _candidates_need_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "ChatRequest":
        newer, older = self.max_completion_tokens, self.max_tokens
        if newer != older and None not in (newer, older):
            raise ValueError(f"max_completion_tokens is {newer} and max_tokens is {older}: give one of them")
        return self


class CompletionRequest(Sampled):
    """`POST /v1/completions`."""

    prompt: Annotated[str | list[int], BeforeValidator(_one_prompt)]
    logprobs: int | None = Field(default=None, ge=0, lt=2**32)

    @property
    def longest(self) -> int | None:
        """`max_tokens`; OpenAI's default for this route is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def candidates(self) -> int | None:
        """Best candidates to report of each token; None: no log probabilities at all."""
        return self.logprobs


Kind = TypeVar("Kind", bound=Sampled)


def parse(kind: type[Kind], body: bytes) -> Kind:
    """A body of the given kind.

    Raises:
        Failure: 400, naming the field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _failure(error, {*kind.model_fields, *_INERT}) from None


def _failure(error: ValidationError, parameters: Container[str]) -> Failure:
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if where:
        return invalid(f"{where}: {message}", where)
    name = message.split(" ", 1)[0]  # what is wrong with the whole begins with the name of a part, if one is to blame
    return invalid(message, name if name in parameters else None)
