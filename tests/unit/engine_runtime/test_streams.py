"""A token stream without an engine: what its reader gets when an answer ends in the middle of something."""

from fake_engine_client import request

from headway_engine.core.events import StepEvent
from headway_engine.core.request import Finished, FinishReason, RequestId, SamplingParams
from headway_engine.runtime.streams import StreamItem, TokenStream


class PiecesTokenizer:
    """Tokens of several bytes, whose borders cut characters."""

    PIECES = (b"The end \xf0\x9f", b"\x98\x80 S", b"TOP")

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return b"".join(self.PIECES[token] for token in ids).decode(errors="replace")


def last_item(tokens: tuple[int, ...], stop: tuple[str, ...] = ()) -> StreamItem:
    """All that a reader finds who comes when the answer is over."""
    stream = TokenStream(request("a", SamplingParams(stop=stop), ids=()), PiecesTokenizer(), lambda *_: None)
    for token in tokens:
        stream.push(StepEvent(RequestId("a"), (token,), None))
    finished = Finished(FinishReason.LENGTH, tokens, prompt_tokens=2, queue_ms=0.0, ttft_ms=0.0)
    stream.push(StepEvent(RequestId("a"), (), finished))
    item = stream.take()
    assert item is not None
    assert item.finished is not None
    return item


def test_text_before_a_character_that_was_never_completed_is_shown() -> None:
    assert last_item((0,)).text == "The end "


def test_text_that_might_have_begun_a_stop_string_is_shown_when_the_answer_ends() -> None:
    assert last_item((0, 1), ("STOP",)).text == "The end 😀 S"


def test_a_stop_string_that_is_complete_in_the_last_text_ends_the_answer_before_it() -> None:
    item = last_item((0, 1, 2), ("STOP",))
    assert item.text == "The end 😀 "
    assert item.finished is not None
    assert (item.finished.reason, item.finished.matched_stop) == (FinishReason.STOP, "STOP")


def test_a_stop_string_in_text_that_was_held_to_the_end_is_found() -> None:
    item = last_item((0,), ("end",))
    assert item.text == "The "
    assert item.finished is not None
    assert (item.finished.reason, item.finished.matched_stop) == (FinishReason.STOP, "end")
