"""The `headway` command against the engine's server on loopback."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_async_engine import FakeAsyncEngine
from loopback import served

from headway_cli.simulate import engines
from headway_engine.core.constraint import ConstraintKind, ConstraintSpec


@pytest.fixture
async def engine() -> FakeAsyncEngine:
    return FakeAsyncEngine(auto=True)


@pytest.fixture
async def address(engine: FakeAsyncEngine) -> AsyncIterator[str]:
    async with served(engine) as found:
        yield found


async def headway(*arguments: str) -> tuple[int | None, str, str]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "headway_cli.main", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_front_of_a_served_engine_goes_into_its_step_model(address: str, tmp_path: Path) -> None:
    engine = {"kind": "engine", "name": "tiny", "kv_tokens": 4096, "ahead": False, "dtype": "float32", "device": "cpu"}
    shape = {"kind": "step", "context": 0, "tokens": 0, "squares": 0, "apart": False}
    steps = [{**shape, "cell": f"decode {n}", "decodes": n, "ms": 5 + n} for n in (1, 2, 4, 8, 16)]
    steps += [
        {**shape, "cell": f"prompt {n}", "decodes": 0, "tokens": n, "squares": n * n, "ms": 5 + n}
        for n in (16, 64, 256)
    ]
    kept, file = tmp_path / "samples.jsonl", tmp_path / "engine.csv"
    kept.write_text("".join(json.dumps(row) + "\n" for row in (engine, *steps)))
    code, _, err = await headway(
        "bench", "calibrate", "--from", str(kept), "--output", str(file), "--front", address, "--mux"
    )
    assert (code, err.count("\n")) == (0, 1)
    assert engines.load(file).first_token_ms > 0
    assert (
        "# first_token_ms, first_token_each_ms: single prompts over gRPC, alone and beside streams." in file.read_text()
    )
    code, out, _ = await headway(
        *("bench", "online", "--address", address, "--rate", "20", "--duration", "1", "--max-output", "16"),
        *("--max-input", "1000", "--json", "--against", str(file)),
    )
    assert code == 0
    against = json.loads(out)["against"]
    assert against["front_ms"] > 0 <= against["front_each_ms"]
    code, _, err = await headway(
        "bench", "calibrate", "--from", str(kept), "--output", str(file), "--front", "127.0.0.1:1"
    )
    assert (code, err) == (1, f"headway: --front 127.0.0.1:1: {err.partition(': --front 127.0.0.1:1: ')[2]}")


async def test_generate_prints_the_answer_and_on_request_the_figures(address: str, engine: FakeAsyncEngine) -> None:
    code, out, err = await headway(
        *("generate", "hello", "--address", address, "--max-tokens", "3", "--seed", "5", "--stats")
    )
    assert (code, out) == (0, "t1 t2 t3 \n")
    assert err == "1 prompt tokens, 3 generated, length; queue 1.5 ms, first token 2.5 ms\n"
    (request,) = engine.submitted
    assert (request.text, request.sampling.temperature, request.sampling.seed) == ("hello", 0.0, 5)


async def test_generate_asks_for_the_form_that_its_flags_say(
    address: str, engine: FakeAsyncEngine, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "null"}')
    for flags in (("--json-schema", str(schema)), ("--regex", "a+"), ("--choice", "a", "--choice", "b")):
        code, _, _ = await headway("generate", "hello", "--address", address, "--max-tokens", "1", *flags)
        assert code == 0
    assert [request.sampling.constraint for request in engine.submitted] == [
        ConstraintSpec(ConstraintKind.JSON_SCHEMA, '{"type": "null"}'),
        ConstraintSpec(ConstraintKind.REGEX, "a+"),
        ConstraintSpec(ConstraintKind.CHOICE, "", ("a", "b")),
    ]
    code, _, err = await headway("generate", "hello", "--address", address, "--json-schema", str(tmp_path / "none"))
    assert code == 1
    assert err.startswith("headway: --json-schema ")
    assert err.count("\n") == 1


async def test_a_refusal_is_one_line(address: str) -> None:
    code, out, err = await headway("generate", "hello", "--address", address, "--max-tokens", "0")
    assert (code, out) == (1, "")
    assert err.startswith("headway: INVALID_ARGUMENT: sampling_params.max_tokens is 0")
    assert err.count("\n") == 1


async def test_an_address_where_nobody_listens_is_one_line() -> None:
    code, _, err = await headway("generate", "hello", "--address", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("headway: UNAVAILABLE: nothing answers at 127.0.0.1:1")


@pytest.mark.parametrize("how", [[], ["--mux"], ["--clients", "2"]])
async def test_bench_online_sends_the_whole_schedule(address: str, engine: FakeAsyncEngine, how: list[str]) -> None:
    code, out, err = await headway(
        *("bench", "online", "--address", address, "--rate", "40", "--duration", "1", "--max-output", "16", *how),
        *("--max-input", "1000", "--json"),
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    warmups = 2
    assert report["requests"] == report["statuses"]["OK"] == len(engine.submitted) - warmups > 20
    assert report["output_tokens"] == sum(request.sampling.max_tokens or 0 for request in engine.submitted[warmups:])
    assert 0 < report["ttft_ms"]["p50"] <= report["ttft_ms"]["p99"]
    assert {len(request.prompt_ids) >= 16 for request in engine.submitted} == {True}


async def test_bench_online_sets_its_figures_beside_the_peers(address: str, tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    online = {"duration_s": 1, "G": {"s": {"20": {"ttft_ms": {"p50": 1e6}}}}}
    file.write_text(json.dumps({"peers": {}, "goals": {}, "online": online}))
    load = ("bench", "online", "--address", address, "--rate", "20", "--duration", "1")
    code, out, _ = await headway(*load, "--peer", "G/s", "--peers", str(file), "--json")
    assert code == 0
    (row,) = json.loads(out)["over_peer"]
    assert (row["figure"], row["peer"]) == ("TTFT p50", 1e6)
    assert row["ratio"] == 1e6 / row["ours"] > 1


async def test_a_prompt_of_bytes_that_are_no_text_is_one_sentence(address: str) -> None:
    code, _, err = await headway("generate", "bad \udcff", "--address", address)
    assert (code, err) == (1, "headway: PROMPT, or the text of a flag, is not in the encoding of this terminal\n")
