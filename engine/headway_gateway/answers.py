"""From the engine's messages to OpenAI's objects, for answers of one or several choices.

A whole answer is one object with a text for each choice. A stream has an object for each message of a choice, then one with its
reason; choices come mixed, each object has its choice's index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headway_rpc import pb
from headway_rpc.client import Message

Json = dict[str, object]
_REASONS = {pb.STOP: "stop", pb.LENGTH: "length"}
_REPLACEMENT = "\ufffd"


@dataclass(slots=True)
class Choice:
    """One choice while it comes.

    Attributes:
        index: its place.
        chat: whether it is a message of a chat, or plain text.
        text: so far.
        logprobs: of its tokens so far, where they are wanted.
        complete: its end.
    """

    index: int
    chat: bool
    text: str = ""
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    complete: pb.GenerateComplete | None = None
    _spelled: int = field(default=0, init=False)  # characters of the tokens before the next one

    def take(self, message: Message) -> None:
        """The next part."""
        self.text += message.text
        self.logprobs.extend(message.logprobs)
        if isinstance(message, pb.GenerateComplete):
            self.complete = message

    def whole(self) -> Json:
        """All of it, with its reason."""
        body: Json = {"message": {"role": "assistant", "content": self.text, "refusal": None}}
        return self._choice(body if self.chat else {"text": self.text}, self.logprobs, self._reason())

    def opening(self) -> Json | None:
        """What comes before the first text; only a chat says who speaks."""
        return self._choice({"delta": {"role": "assistant", "content": ""}}, (), None) if self.chat else None

    def piece(self, message: Message) -> Json | None:
        """What this message adds; None for nothing."""
        if not message.text and not message.logprobs:
            return None
        body: Json = {"delta": {"content": message.text}} if self.chat else {"text": message.text}
        return self._choice(body, message.logprobs, None)

    def closing(self) -> Json:
        """The end, with its reason."""
        return self._choice({"delta": {}} if self.chat else {"text": ""}, (), self._reason())

    def _reason(self) -> str | None:
        return None if self.complete is None else _REASONS[self.complete.finish_reason]

    def _choice(self, body: Json, logprobs: Sequence[pb.TokenLogprobs], reason: str | None) -> Json:
        return {"index": self.index, **body, "logprobs": self._scores(logprobs), "finish_reason": reason}

    def _scores(self, logprobs: Sequence[pb.TokenLogprobs]) -> Json | None:
        if not logprobs:
            return None
        if self.chat:
            content = [{**_scored(one.chosen), "top_logprobs": [_scored(best) for best in one.top]} for one in logprobs]
            return {"content": content, "refusal": None}
        offsets = []
        for one in logprobs:
            offsets.append(self._spelled)
            self._spelled += len(one.chosen.text)
        return {
            "tokens": [one.chosen.text for one in logprobs],
            "token_logprobs": [one.chosen.logprob for one in logprobs],
            "top_logprobs": [{best.text: best.logprob for best in one.top} for one in logprobs],
            "text_offset": offsets,
        }


@dataclass(frozen=True, slots=True)
class Head:
    """What all objects of an answer have in common.

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

    def whole(self, choices: Sequence[Choice]) -> Json:
        """The answer in one object."""
        return {**self._head(streamed=False), "choices": [one.whole() for one in choices], "usage": usage(choices)}

    def event(self, choice: Json) -> Json:
        """A part of a choice."""
        return {**self._head(streamed=True), "choices": [choice]}

    def bill(self, choices: Sequence[Choice]) -> Json:
        """The last object of a stream with `include_usage`."""
        return {**self._head(streamed=True), "choices": [], "usage": usage(choices)}

    def _head(self, *, streamed: bool) -> Json:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.answer_id, "object": kind, "created": self.created, "model": self.model}


def usage(choices: Sequence[Choice]) -> Json:
    """Token counts; the choices share one prompt, which counts once."""
    ends = [one.complete for one in choices if one.complete is not None]
    prompt, completion = ends[0].prompt_tokens, sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        # The second one is ours: what the fleet's prompt policy cut out, which prompt_tokens does not count.
        "prompt_tokens_details": {"cached_tokens": ends[0].cached_tokens, "truncated_tokens": ends[0].truncated_tokens},
    }


def _scored(candidate: pb.Candidate) -> Json:
    text = candidate.text
    # The bytes of a part of a character are not known here.
    own = None if _REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": candidate.logprob, "bytes": own}
