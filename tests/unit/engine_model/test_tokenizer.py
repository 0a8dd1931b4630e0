"""A text has at least as many tokens as words wherever the tokenizer says so, so a long one is refused unread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from headway_engine.bench.beside_transformers import default_model
from headway_engine.model.gguf import GgufFile
from headway_engine.model.tokenizer import ModelTokenizer, from_gguf

SPACES = st.sampled_from([" ", "  ", "\n", "\t", " \n ", "\r\n", "\x0b"])
TEXTS = st.lists(st.tuples(st.text(max_size=12), SPACES), max_size=40).map(
    lambda parts: "".join(a + b for a, b in parts)
)


@pytest.fixture(scope="module")
def smollm() -> ModelTokenizer:
    return from_gguf(GgufFile(default_model()), ())


def byte_level(*tokens: str) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@given(text=TEXTS)
def test_no_text_has_fewer_tokens_than_words(smollm: ModelTokenizer, text: str) -> None:
    assert smollm.words_apart
    [ids] = smollm.encode_batch([text])
    assert len(ids) >= len(text.encode().split())


@pytest.mark.parametrize("token", ["of\u0120the", "a\u010ab", "New York", "x \u0120 y"])
def test_one_token_over_two_words_makes_the_count_of_words_say_nothing(token: str) -> None:
    assert ModelTokenizer(byte_level("a", "\u0120b", "c\u010a"), (), "").words_apart
    assert not ModelTokenizer(byte_level("a", token), (), "").words_apart


def test_text_that_is_rewritten_or_another_alphabet_is_not_counted() -> None:
    rewritten = byte_level("a")
    rewritten.normalizer = normalizers.Strip()
    other = byte_level("a")
    other.decoder = decoders.Metaspace()
    assert not ModelTokenizer(rewritten, (), "").words_apart
    assert not ModelTokenizer(other, (), "").words_apart
