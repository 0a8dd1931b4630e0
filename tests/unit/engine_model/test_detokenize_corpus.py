"""Incremental text over a corpus of byte sequences: the pieces are those of the whole, and no character comes broken."""

import random

import pytest
from fake_engine_model import ByteTokenizer

from headway_engine.bench.beside_transformers import default_model
from headway_engine.model import tokenizer as model_tokenizer
from headway_engine.model.gguf import GgufFile
from headway_engine.model.tokenizer import ModelTokenizer
from headway_engine.runtime.detokenize import Decode, StopMatcher, TextDecoder

# First and last code points of each length, what stands around the surrogates, and the last one of all.
EDGES = "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff"
BROKEN = (
    b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf",  # overlong
    b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80",  # surrogates
    b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff\xfe", b"\xf8\x88\x80\x80\x80",  # beyond the last one
    b"\xc2", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0", b"\x80", b"\xbf\xbf\xbf",  # cut off, or lost
)  # fmt: skip
TEXTS = (
    EDGES,
    "naïve café, größer, Ελλάδα, Привет, שלום, مرحبا, नमस्ते, 日本語の文章, 한국어",
    "e\u0301 \u1112\u1161\u11ab 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 \u200b\u202e\ufeff",
    "a\ufffdb",  # U+FFFD itself is a character
    '{"k": "v\\n\\u00e9"}\n\n\tdef f(x):\n        return x  # done',
)


def pieces(tokenizer: Decode, ids: list[int]) -> list[str]:
    decoder = TextDecoder(tokenizer, (), skip_special_tokens=False)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


def check(tokenizer: Decode, ids: list[int]) -> None:
    """`ids` begin and end with a whole character, so that nothing is left out at the end."""
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    assert "".join(pieces(tokenizer, ids)) == whole, ids


def test_every_sequence_of_one_and_two_bytes() -> None:
    tokenizer = ByteTokenizer()
    for first in range(256):
        check(tokenizer, [97, first, 98])
        for second in range(256):
            check(tokenizer, [97, first, second, 98])


@pytest.fixture(scope="module")
def smollm2() -> ModelTokenizer:
    return model_tokenizer.from_gguf(GgufFile(default_model()), (2,))


@pytest.fixture(scope="module")
def byte_ids(smollm2: ModelTokenizer) -> list[int]:
    """The token of each single byte."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in shown]
    spelled = [chr(byte if byte in shown else 256 + hidden.index(byte)) for byte in range(256)]
    vocabulary = smollm2._tokenizer.get_vocab()
    return [vocabulary[text] for text in spelled if text in vocabulary]


def test_edges_of_utf8_between_texts() -> None:
    for broken in BROKEN:
        for before, after in (("a", "b"), ("é", "😀"), ("😀", "\x7f")):
            check(ByteTokenizer(), [*before.encode(), *broken, *after.encode()])


def test_an_answer_that_ends_inside_a_character_is_shown_up_to_it() -> None:
    for text in ("é", "日", "😀"):
        for size in range(1, len(text.encode())):
            assert "".join(pieces(ByteTokenizer(), [97, *text.encode()[:size]])) == "a"


def test_every_byte_of_the_model_between_texts(smollm2: ModelTokenizer, byte_ids: list[int]) -> None:
    (a,), (b,) = smollm2.encode_batch(["a", "b"])
    for first in byte_ids:
        check(smollm2, [a, first, b])
        check(smollm2, [a, first, first, b])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_piece_of_a_text_is_broken_wherever_its_tokens_end(smollm2: ModelTokenizer, text: str) -> None:
    (natural,) = smollm2.encode_batch([text])
    for tokenizer, ids in ((smollm2, natural), (ByteTokenizer(), list(text.encode()))):
        found = pieces(tokenizer, ids)
        assert "".join(found) == text
        assert sum(piece.count("\ufffd") for piece in found) == text.count("\ufffd")


def test_random_tokens_of_the_model_add_up_to_what_they_are_together(
    smollm2: ModelTokenizer, byte_ids: list[int]
) -> None:
    assert len(byte_ids) > 200
    chance = random.Random(5)
    (a,), (b,) = smollm2.encode_batch(["a", "b"])
    for _ in range(1500):
        ids = [chance.choice(byte_ids) if chance.random() < 0.5 else chance.randrange(20, 49152) for _ in range(12)]
        check(smollm2, [a, *ids, b])


def test_a_stop_string_is_found_wherever_tokens_cut_it() -> None:
    answer, stop = "a größere 😀 End", "ere 😀 E"
    tokenizer = ByteTokenizer()
    data = list(answer.encode())
    for size in range(1, 9):
        decoder, matcher = TextDecoder(tokenizer, (), skip_special_tokens=False), StopMatcher((stop,))
        text, ended = "", ""
        for start in range(0, len(data), size):
            shown = matcher.push("".join(decoder.push(token) for token in data[start : start + size]))
            text += shown.text
            ended = shown.matched_stop
            if ended:
                break
        assert (text, ended) == ("a größ", stop)
