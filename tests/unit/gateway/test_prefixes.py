"""What the gateway remembers of the prompts that an engine has computed."""

import tracemalloc

import pytest

from headway_gateway.prefixes import MOST_PIECES, Prefixes
from headway_gateway.prompt import PIECE_BYTES, PIECE_TOKENS, Prompt, measured
from headway_rpc import pb

TEXT = "".join(f"line {number:5}\n" for number in range(100))


def prompt(text: str, **fields: str) -> Prompt:
    return measured(pb.GenerateRequest(text=text, **fields))


def knowing(*prompts: Prompt, capacity_tokens: int = 100_000) -> Prefixes:
    found = Prefixes()
    found.make_room(capacity_tokens)
    for one in prompts:
        found.note(one)
    return found


def test_a_token_is_four_bytes_of_text_or_an_id() -> None:
    assert [prompt(text).tokens for text in ("", "a", "four", "five!", "äöü")] == [0, 1, 1, 2, 2]
    ids = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=range(200)))
    assert measured(ids).tokens == 200
    assert len(measured(ids).pieces) == 200 // PIECE_TOKENS


def test_a_prompt_finds_as_much_as_it_shares_from_the_beginning_on() -> None:
    cache = knowing(prompt(TEXT))
    assert cache.cached(prompt(TEXT + "and more of it")) == len(TEXT) // PIECE_BYTES * PIECE_TOKENS
    for shared in (0, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 5):
        assert cache.cached(prompt(TEXT[:shared] + "!" + TEXT[shared:])) == shared // PIECE_BYTES * PIECE_TOKENS
    assert cache.cached(prompt(TEXT[PIECE_BYTES:])) == 0, "the same piece after another beginning is another one"


def test_model_and_salt_keep_prompts_apart_and_so_do_ids_and_text() -> None:
    cache = knowing(prompt(TEXT, model="m", cache_salt="a"))
    assert cache.cached(prompt(TEXT, model="m", cache_salt="a"))
    assert not cache.cached(prompt(TEXT, model="m", cache_salt="b"))
    assert not cache.cached(prompt(TEXT, model="n", cache_salt="a"))
    same_bytes = pb.TokenizedInput(
        input_ids=[int.from_bytes(TEXT[at : at + 4].encode(), "little") for at in range(0, 1000, 4)]
    )
    assert not cache.cached(measured(pb.GenerateRequest(tokenized=same_bytes, model="m", cache_salt="a")))


def test_what_was_used_longest_ago_goes_first_and_of_a_prompt_its_end() -> None:
    old, new = prompt(TEXT), prompt("another " + TEXT)
    pieces = len(old.pieces)
    cache = knowing(old, new, old, capacity_tokens=(2 * pieces - 1) * PIECE_TOKENS)
    assert cache.cached(old) == pieces * PIECE_TOKENS
    assert cache.cached(new) == (pieces - 1) * PIECE_TOKENS
    cache.make_room(PIECE_TOKENS)
    assert (cache.cached(old), cache.cached(new), len(cache)) == (PIECE_TOKENS, 0, 1)
    cache.forget()
    assert (cache.cached(old), len(cache)) == (0, 0)


@pytest.mark.parametrize("capacity_tokens", [0, PIECE_TOKENS - 1])
def test_without_room_nothing_is_kept(capacity_tokens: int) -> None:
    assert not len(knowing(prompt(TEXT), capacity_tokens=capacity_tokens))


def test_an_engine_with_the_largest_cache_costs_a_megabyte() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cache = knowing(*(prompt(f"{number} {TEXT * 10}") for number in range(300)), capacity_tokens=10**9)
    size = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(cache) == MOST_PIECES
    assert size < 1.5e6
