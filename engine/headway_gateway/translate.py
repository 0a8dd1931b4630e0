"""Between OpenAI's objects and the engine's messages. Pure."""

from dataclasses import dataclass

from headway_gateway import chat
from headway_gateway.api import ChatRequest, CompletionRequest, Sampled
from headway_gateway.errors import invalid
from headway_rpc import pb

Json = dict[str, object]
_PRIORITIES = {
    "realtime": pb.PRIORITY_REALTIME,
    "interactive": pb.PRIORITY_INTERACTIVE,
    "batch": pb.PRIORITY_BATCH,
}
_REASONS = {pb.STOP: "stop", pb.LENGTH: "length"}


def generate_request(body: ChatRequest | CompletionRequest, template: str) -> pb.GenerateRequest:
    """The engine's request. `template`: the model's chat template, "" when it has none.

    Raises:
        Failure: 400, the chat cannot become a prompt.
    """
    request = pb.GenerateRequest(
        sampling_params=_sampling(body, body.longest),
        priority=_PRIORITIES[body.priority],
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


def _sampling(body: Sampled, max_tokens: int | None) -> pb.SamplingParams:
    return pb.SamplingParams(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=body.stop or (),
        ignore_eos=body.ignore_eos,
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """How one answer is written; `chat` or plain completion.

    Attributes:
        chat: whether this is a chat.
        answer_id: of all its objects.
        created: Unix time, s.
        model: the served name.
    """

    chat: bool
    answer_id: str
    created: int
    model: str

    def whole(self, text: str, complete: pb.GenerateComplete) -> Json:
        """The answer in one object."""
        reason = _REASONS[complete.finish_reason]
        message: Json = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choice = {"index": 0, **(message if self.chat else {"text": text}), "logprobs": None, "finish_reason": reason}
        return {**self._head(streamed=False), "choices": [choice], "usage": usage(complete)}

    def opening(self) -> Json | None:
        """What comes before the first text; only a chat says who speaks."""
        return self._piece({"role": "assistant", "content": ""}, None) if self.chat else None

    def piece(self, text: str) -> Json:
        """Some text."""
        return self._piece({"content": text} if self.chat else text, None)

    def closing(self, complete: pb.GenerateComplete) -> Json:
        """The end of the text, with its reason."""
        return self._piece({} if self.chat else "", _REASONS[complete.finish_reason])

    def bill(self, complete: pb.GenerateComplete) -> Json:
        """The last object of a stream with `include_usage`."""
        return {**self._head(streamed=True), "choices": [], "usage": usage(complete)}

    def _piece(self, content: Json | str, reason: str | None) -> Json:
        key = "delta" if self.chat else "text"
        choice = {"index": 0, key: content, "logprobs": None, "finish_reason": reason}
        return {**self._head(streamed=True), "choices": [choice]}

    def _head(self, *, streamed: bool) -> Json:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.answer_id, "object": kind, "created": self.created, "model": self.model}


def usage(complete: pb.GenerateComplete) -> Json:
    """Token counts."""
    prompt, completion = complete.prompt_tokens, complete.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": complete.cached_tokens},
    }
