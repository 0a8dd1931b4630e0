import pytest
from fake_engine_model import EOS, ByteTokenizer
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.runtime.detokenize import MAX_HELD_TOKENS, StopMatcher, TextDecoder


class CountingTokenizer(ByteTokenizer):
    def __init__(self) -> None:
        super().__init__()
        self.longest = 0

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        self.longest = max(self.longest, len(ids))
        return super().decode(ids, skip_special_tokens)


class SpacedTokenizer:
    """Like SentencePiece: a word's leading space is not written at the start of a text."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(f"w{token}" for token in ids)


def decoded(tokens: list[int], prompt: tuple[int, ...] = (), skip: bool = True) -> list[str]:
    decoder = TextDecoder(ByteTokenizer(), prompt, skip)
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@given(st.text(max_size=40), st.text(max_size=6))
def test_the_pieces_add_up_to_the_text_and_none_is_broken(answer: str, prompt: str) -> None:
    pieces = decoded(list(answer.encode()), tuple(prompt.encode()))
    assert "".join(pieces) == answer.rstrip("\ufffd") or "\ufffd" in answer
    assert "\ufffd" in answer or not any("\ufffd" in piece for piece in pieces)


def test_a_character_appears_when_its_last_byte_came() -> None:
    assert decoded(list("é🙂".encode())) == ["", "é", "", "", "", "🙂", ""]


def test_a_character_that_was_never_completed_is_left_out() -> None:
    assert "".join(decoded(list("ab🙂".encode()[:-1]))) == "ab"


def test_bytes_that_never_become_a_character_are_shown_after_a_while() -> None:
    pieces = decoded([0xFF] * (MAX_HELD_TOKENS + 2) + [ord("a")])
    assert "".join(pieces).endswith("a")
    assert "".join(pieces).count("\ufffd") == MAX_HELD_TOKENS + 2


def test_a_space_between_the_prompt_and_the_answer_is_kept() -> None:
    decoder = TextDecoder(SpacedTokenizer(), (1, 2), skip_special_tokens=True)
    assert [decoder.push(3), decoder.push(4)] == [" w3", " w4"]


def test_a_prompt_that_ends_inside_a_character_does_not_swallow_the_answer() -> None:
    assert "".join(decoded(list(b"abc"), tuple("é".encode()[:1]))) == "abc"


@pytest.mark.parametrize(("skip", "text"), [(True, "a"), (False, "a<eos>")])
def test_special_tokens_are_text_only_when_asked_for(skip: bool, text: str) -> None:
    assert "".join(decoded([ord("a"), EOS], skip=skip)) == text


def test_the_cost_of_a_token_does_not_grow_with_the_answer() -> None:
    tokenizer = CountingTokenizer()
    decoder = TextDecoder(tokenizer, tuple(b"prompt" * 50), skip_special_tokens=True)
    for _ in range(500):
        decoder.push(ord("x"))
    assert tokenizer.longest <= 5


def matched(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str]:
    matcher = StopMatcher(stops)
    text = ""
    for piece in pieces:
        shown = matcher.push(piece)
        text += shown.text
        if shown.matched_stop:
            return text, shown.matched_stop
    return text + matcher.flush(), ""


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_text_before_the_first_stop_string_is_shown_and_nothing_of_it(answer: str, stops: list[str]) -> None:
    text, stop = matched(tuple(stops), list(answer))
    if not any(one in answer for one in stops):
        assert (text, stop) == (answer, "")
    else:
        # Characters come one by one, so the stop string that is complete first ends the answer.
        end = min(answer.find(one) + len(one) for one in stops if one in answer)
        assert stop in stops
        assert text + stop == answer[:end] or answer[:end].endswith(stop)
        assert answer.startswith(text)
        assert not any(one in text for one in stops)


def test_of_two_stop_strings_in_one_piece_the_earlier_one_ends_the_answer() -> None:
    assert matched(("two", "one"), ["zero one two"]) == ("zero ", "one")


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.push("a ST").text == "a "
    assert matcher.push("x").text == "STx"
