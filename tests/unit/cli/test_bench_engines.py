"""Which engine a request goes to, and when it is tried again elsewhere."""

from collections.abc import AsyncGenerator

import grpc
import pytest

from headway_cli.bench import load
from headway_cli.bench.engines import Engine, EnginePool
from headway_cli.bench.load import LoadClient, Share
from headway_cli.bench.report import Objective, summarize
from headway_cli.bench.workload import Arrival
from headway_rpc import pb
from headway_rpc.client import EngineError, Message


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RETRY_S", 0.0)


def refuses() -> EngineError:
    return EngineError(grpc.StatusCode.UNAVAILABLE, "draining")


class Script:
    """An engine that gives `tokens` tokens and then fails, or ends well."""

    def __init__(self, tokens: int, error: EngineError | None = None) -> None:
        self.asked = 0
        self.tokens, self.error = tokens, error

    async def send(self, request: pb.GenerateRequest) -> AsyncGenerator[Message]:
        self.asked += 1
        for token in range(self.tokens):
            yield pb.GenerateChunk(token_ids=[token])
        if self.error is not None:
            raise self.error
        yield pb.GenerateComplete(completion_tokens=self.tokens, finish_reason=pb.LENGTH)


def client(*scripts: Script, requests: int = 1) -> LoadClient:
    schedule = tuple(Arrival(index, 0.0, 4, 2) for index in range(requests))
    made = LoadClient(Share((), schedule, 0, 100, 0.0, 60.0, mux=False, warmup=0))
    pool = EnginePool(60.0, mux=False)
    pool._open = tuple(Engine(f"e{index}", script.send) for index, script in enumerate(scripts))
    made._pool = pool
    return made


async def run(made: LoadClient) -> dict[str, int]:
    report = summarize(await made.run(0.0), Objective(1000, 1000))
    return {name: getattr(report, name) for name in ("completed", "failed", "cut", "retried", "engines")}


async def test_a_request_that_a_draining_engine_refuses_is_answered_by_another() -> None:
    draining, serving = Script(0, refuses()), Script(2)
    assert await run(client(draining, serving)) == {
        "completed": 1,
        "failed": 0,
        "cut": 0,
        "retried": 1,
        "engines": 1,
    }
    assert (draining.asked, serving.asked) == (1, 1)


async def test_an_answer_that_has_begun_is_cut_and_not_asked_for_again() -> None:
    broken, serving = Script(1, refuses()), Script(2)
    assert await run(client(broken, serving)) == {
        "completed": 0,
        "failed": 1,
        "cut": 1,
        "retried": 0,
        "engines": 0,
    }
    assert serving.asked == 0


async def test_a_full_queue_is_an_answer_and_not_tried_elsewhere() -> None:
    full, serving = Script(0, EngineError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")), Script(2)
    assert (await run(client(full, serving)))["failed"] == 1
    assert serving.asked == 0


async def test_a_fleet_that_never_takes_a_request_is_given_up() -> None:
    draining = Script(0, refuses())
    assert (await run(client(draining)))["failed"] == 1
    assert draining.asked == load.MAX_TRIES


def test_the_least_busy_engine_is_picked_and_tried_ones_come_last() -> None:
    pool = EnginePool(60.0, mux=False)
    pool._open = tuple(Engine(name, Script(1).send, flying) for name, flying in (("a", 3), ("b", 1), ("c", 2)))
    assert pool.pick([]).address == "b"
    assert pool.pick(["b"]).address == "c"
    assert pool.pick(["a", "b", "c"]).address == "b"


async def test_no_engine_at_all_is_taken_for_a_moment_between_two_states() -> None:
    pool = EnginePool(60.0, mux=False)
    pool._open = (Engine("a", Script(1).send),)
    await pool.follow([])
    assert [engine.address for engine in pool.open] == ["a"]
