"""Answers of a required form: whatever allowed tokens are drawn, what comes out has it."""

import json
import random
import re
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest
from fake_engine_model import EOS, VOCAB_SIZE, ByteTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_engine.bench.beside_transformers import default_model
from headway_engine.core.constraint import Constraint, ConstraintError, ConstraintKind, ConstraintSpec
from headway_engine.model import tokenizer as model_tokenizer
from headway_engine.model.gguf import GgufFile
from headway_engine.runtime.grammar import KEPT_FORMS, GrammarCompiler
from headway_engine.runtime.tokenize import Tokenizer

MODEL_EOS = 2
LONGEST = 3000  # tokens of a random answer


class Forms:
    """A compiler, and random answers of the forms that it compiles."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.compiler = GrammarCompiler(tokenizer, vocab_size)
        (self.eos,) = tokenizer.eos_token_ids
        lengths = [len(tokenizer.decode([token], False)) for token in range(vocab_size)]
        self.lengths = np.array(lengths)

    def compiled(self, kind: ConstraintKind, source: str, *choices: str) -> Constraint:
        return self.compiler.compile_here(ConstraintSpec(kind, source, choices))

    def allowed(self, constraint: Constraint) -> set[int]:
        mask = np.full(-(-self.vocab_size // 32), -1, dtype=np.int32)
        constraint.fill(mask)
        return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())

    def walk(self, constraint: Constraint, seed: int) -> str:
        """An answer of random allowed tokens; now and then a short one, so that it ends."""
        chance = random.Random(seed)
        answer: list[int] = []
        while not constraint.complete:
            allowed = sorted(self.allowed(constraint))
            assert allowed, "nothing may follow, not even the end"
            assert max(allowed) < self.vocab_size
            token = chance.choice(allowed)
            if chance.random() < 0.5:
                token = min(allowed, key=lambda one: (self.lengths[one], chance.random()))
            if token == self.eos:
                break
            constraint.advance(token)
            answer.append(token)
            assert len(answer) < LONGEST
        return self.tokenizer.decode(answer, False)


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Forms]:
    tokenizer = model_tokenizer.from_gguf(GgufFile(default_model()), (MODEL_EOS,))
    forms = Forms(tokenizer, tokenizer.vocab_size)
    yield forms
    forms.compiler.close()


@pytest.fixture(scope="module")
def bytewise() -> Iterator[Forms]:
    forms = Forms(ByteTokenizer(), VOCAB_SIZE)
    yield forms
    forms.compiler.close()


Schema = dict[str, object]
NAMES = st.sampled_from(["a", "b", "name", "größe", 'with "quotes"', "😀"])


def _ranged(kind: str, low: int, high: int) -> Schema:
    return {"type": kind, "minimum": min(low, high), "maximum": max(low, high)}


LEAVES: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "integer"}, {"$ref": "#/$defs/shared"}]),
    st.builds(_ranged, st.sampled_from(["integer", "number"]), st.integers(-500, 500), st.integers(-500, 500)),
    st.builds(lambda n: {"type": "string", "minLength": n // 2, "maxLength": n}, st.integers(0, 9)),
    st.sampled_from([{"type": "string", "pattern": "^[A-Z]{2}-\\d{1,3}$"}, {"type": "string", "format": "date"}]),
    st.lists(st.sampled_from(["x", "yes", "é😀", 'q"\\'])).filter(bool).map(lambda texts: {"enum": [*texts, 7, None]}),
    st.sampled_from(["fixed", 3, None, True]).map(lambda value: {"const": value}),
)


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    names = [name for name in dict.fromkeys(required) if name in properties]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(NAMES, inner, max_size=3), st.lists(NAMES, max_size=3)),
        st.builds(lambda items, n: {"type": "array", "items": items, "minItems": n, "maxItems": n + 2}, inner, st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
    ),
    max_leaves=6,
)  # fmt: skip
SHARED: Schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": False}  # fmt: skip


@settings(max_examples=60)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_any_answer_to_a_schema_is_valid_json_of_it(smollm2: Forms, schema: Schema, seed: int) -> None:
    whole = {**schema, "$defs": {"shared": SHARED}}
    answer = smollm2.walk(smollm2.compiled(ConstraintKind.JSON_SCHEMA, json.dumps(whole)), seed)
    jsonschema.validate(json.loads(answer), whole, format_checker=jsonschema.FormatChecker())


@settings(max_examples=20)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_a_schema_holds_for_a_vocabulary_of_bytes_too(bytewise: Forms, schema: Schema, seed: int) -> None:
    whole = {**schema, "$defs": {"shared": SHARED}}
    answer = bytewise.walk(bytewise.compiled(ConstraintKind.JSON_SCHEMA, json.dumps(whole)), seed)
    jsonschema.validate(json.loads(answer), whole, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize(
    "expression", ["[a-z]{3,8}@x\\.com", "(yes|no)!?", "\\d{4}-\\d{2}-\\d{2}", "[äöü😀]{1,5}", "(ab)*c", "x{0,40}y"]
)
@pytest.mark.parametrize("seed", range(5))
def test_any_answer_to_an_expression_matches_it_whole(smollm2: Forms, expression: str, seed: int) -> None:
    answer = smollm2.walk(smollm2.compiled(ConstraintKind.REGEX, expression), seed)
    assert re.fullmatch(expression, answer)


def test_the_answer_is_one_of_the_choices_and_any_of_them(smollm2: Forms) -> None:
    choices = ("yes", "yesterday", 'a "quoted" \\ line\nand another', "größer 😀")
    answers = {smollm2.walk(smollm2.compiled(ConstraintKind.CHOICE, "", *choices), seed) for seed in range(60)}
    assert answers == set(choices)


def test_exactly_the_tokens_that_can_go_on_are_allowed(bytewise: Forms) -> None:
    constraint = bytewise.compiled(ConstraintKind.REGEX, "ab?[0-3]*")
    assert bytewise.allowed(constraint) == {ord("a")}
    constraint.advance(ord("a"))
    assert bytewise.allowed(constraint) == {*b"b0123", EOS}
    constraint.advance(ord("b"))
    assert bytewise.allowed(constraint) == {*b"0123", EOS}
    assert not constraint.complete


def test_a_token_that_is_not_allowed_is_refused(bytewise: Forms) -> None:
    constraint = bytewise.compiled(ConstraintKind.CHOICE, "", "ab")
    constraint.advance(ord("a"))
    with pytest.raises(ConstraintError, match=r"sampling_params\.choice: "):
        constraint.advance(ord("a"))


def test_answers_of_one_form_do_not_share_their_state(bytewise: Forms) -> None:
    first, second = (bytewise.compiled(ConstraintKind.CHOICE, "", "ab") for _ in range(2))
    first.advance(ord("a"))
    first.advance(ord("b"))
    assert first.complete
    assert not second.complete
    assert bytewise.allowed(second) == {ord("a")}


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        (ConstraintKind.JSON_SCHEMA, "{", "EOF while parsing"),
        (ConstraintKind.JSON_SCHEMA, '{"type": "strin"}', "Invalid type: strin"),
        (ConstraintKind.JSON_SCHEMA, '{"not": {}}', 'Unimplemented keys: ["not"]'),
        (ConstraintKind.JSON_SCHEMA, '{"$ref": "#/nowhere"}', "'/nowhere' does not exist"),
        (ConstraintKind.JSON_SCHEMA, '{"$ref": "#"}', "no text has this form"),
        (ConstraintKind.JSON_SCHEMA, '{"type": "integer", "minimum": 3, "maximum": 2}', ""),
        (ConstraintKind.JSON_SCHEMA, '{"items": ' * 200 + "{}" + "}" * 200, "recursion limit"),
        (ConstraintKind.JSON_SCHEMA, '{"x-guidance": {"lenient": true}, "not": {}}', 'Unimplemented keys: ["not"]'),
        (ConstraintKind.REGEX, "[", "unclosed character class"),
        (ConstraintKind.REGEX, "(?=a)b", "look-around"),
        (ConstraintKind.REGEX, r"[^\x00-\x{10ffff}]", "no text has this form"),
    ],
)
def test_a_form_that_cannot_be_enforced_is_refused_with_the_reason(
    bytewise: Forms, kind: ConstraintKind, source: str, message: str
) -> None:
    with pytest.raises(ConstraintError) as caught:
        bytewise.compiled(kind, source)
    assert str(caught.value).startswith(f"sampling_params.{kind}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_form_that_turns_out_too_large_ends_its_answer_with_the_reason(bytewise: Forms) -> None:
    constraint = bytewise.compiled(ConstraintKind.REGEX, "(a{1000}){1000}")
    with pytest.raises(ConstraintError, match=r"sampling_params\.regex: .*too many"):
        bytewise.walk(constraint, 0)


def test_a_text_that_is_forced_without_end_ends_its_answer_after_a_bounded_part(bytewise: Forms) -> None:
    # Each object must hold another one.
    schema = '{"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"], "additionalProperties": false}'
    constraint = bytewise.compiled(ConstraintKind.JSON_SCHEMA, schema)
    assert bytewise.allowed(constraint) == {ord("{")}
    with pytest.raises(ConstraintError, match="limit 10000"):
        constraint.advance(ord("{"))


def test_no_more_forms_are_kept_than_the_bound(bytewise: Forms) -> None:
    for n in range(KEPT_FORMS + 5):
        bytewise.compiled(ConstraintKind.CHOICE, "", f"n{n}")
    assert len(bytewise.compiler._forms) == KEPT_FORMS


def test_a_tokenizer_that_the_library_does_not_know_is_named() -> None:
    class Strange(ByteTokenizer):
        def serialized(self) -> str:
            return "{}"

    with pytest.raises(ConstraintError, match="the model's tokenizer cannot be used for a constraint"):
        GrammarCompiler(Strange(), VOCAB_SIZE).compile_here(ConstraintSpec(ConstraintKind.REGEX, "a"))
