"""Answers of a required form by a real model: valid at any temperature, among others, and after preemption."""

import asyncio
import json
import re
import time
from pathlib import Path

import jsonschema
import pytest
from fake_engine_client import read, submitted

from headway_engine.bench.beside_transformers import default_model
from headway_engine.core.constraint import ConstraintKind, ConstraintSpec
from headway_engine.core.request import Finished, FinishReason, Rejected, Request, RequestId, SamplingParams
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"enum": ["France", "Germany", "Japan"]},
        "population": {"type": "integer", "minimum": 0, "maximum": 40_000_000},
        "rivers": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 2},
    },
    "required": ["city", "country", "population"],
    "additionalProperties": False,
}
PROMPT = "<|im_start|>user\nDescribe the capital of France as JSON.<|im_end|>\n<|im_start|>assistant\n"
FORMS = {
    "schema": ConstraintSpec(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    "regex": ConstraintSpec(ConstraintKind.REGEX, "[A-Z][a-z]{2,9} has \\d{1,3} bridges\\."),
    "choice": ConstraintSpec(ConstraintKind.CHOICE, "", ("Paris", "Lyon", "It is Paris.")),
}
THREADS = 1  # see test_answers.py
pytestmark = pytest.mark.timeout(300)

Answer = tuple[str, list[int], Finished]


@pytest.fixture(scope="module")
def model() -> Path:
    return default_model()


def request(name: str, sampling: SamplingParams) -> Request:
    return Request(RequestId(name), time.monotonic(), text=PROMPT, sampling=sampling)


async def answers(config: EngineConfig, wanted: list[Request]) -> tuple[list[Answer], int]:
    """All at once; the second is the number of preemptions."""
    engine = await AsyncEngine.start(config)
    try:
        streams = [await submitted(engine, one) for one in wanted]
        return list(await asyncio.gather(*map(read, streams))), engine.stats().preemptions
    finally:
        await engine.stop()


def check(name: str, text: str) -> None:
    match name.split("-", 1)[0]:
        case "schema":
            jsonschema.validate(json.loads(text), SCHEMA)
        case "regex":
            assert re.fullmatch(FORMS["regex"].source, text), text
        case "choice":
            assert text in FORMS["choice"].choices


def constrained(temperature: float) -> list[Request]:
    return [
        request(f"{name}-{seed}", SamplingParams(temperature=temperature, seed=seed, max_tokens=100, constraint=spec))
        for name, spec in FORMS.items()
        for seed in range(3)
    ]


async def test_each_answer_has_its_form_and_neighbours_answer_as_they_would_alone(model: Path) -> None:
    config = EngineConfig(model, device="cpu", dtype="float32", threads=THREADS)
    plain = request("plain", SamplingParams(temperature=0.0, max_tokens=24))
    wanted = constrained(1.0)
    found, _ = await answers(config, [*wanted, plain])
    for one, (text, _, finished) in zip(wanted, found, strict=False):
        assert finished.reason is FinishReason.STOP
        check(one.request_id, text)
    (alone,), _ = await answers(config, [plain])
    assert found[-1][:2] == alone[:2]


async def test_a_preempted_answer_goes_on_in_its_form(model: Path) -> None:
    # Room for one of the longest answers and little more.
    config = EngineConfig(
        model,
        device="cpu",
        dtype="float32",
        threads=THREADS,
        kv_cache_memory_mib=7,
        max_model_len=140,
        prefix_cache=False,
    )
    wanted = [
        request(f"schema-{seed}", SamplingParams(seed=seed, max_tokens=100, constraint=FORMS["schema"]))
        for seed in range(6)
    ]
    found, preemptions = await answers(config, wanted)
    assert preemptions > 0
    whole = [text for text, _, finished in found if finished.reason is FinishReason.STOP]
    assert len(whole) >= 4, "few are cut off by their length"
    for text in whole:
        check("schema", text)


async def test_a_form_that_cannot_be_read_is_refused_and_leaves_nothing(model: Path) -> None:
    engine = await AsyncEngine.start(EngineConfig(model, device="cpu", dtype="float32", threads=THREADS))
    try:
        bad = SamplingParams(constraint=ConstraintSpec(ConstraintKind.JSON_SCHEMA, '{"type": "strin"}'))
        refused = await engine.submit(request("bad", bad))
        assert isinstance(refused, Rejected)
        assert refused.message == "sampling_params.json_schema: Invalid type: strin"
        assert engine.loads().num_total == 0
    finally:
        await engine.stop()
