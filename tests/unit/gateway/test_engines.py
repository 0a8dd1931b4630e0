"""Which engine gets a request."""

from headway_gateway.engine import Engine, Wanted, pick
from headway_rpc import pb
from headway_rpc.client import EngineClient

UP = pb.ModelInfo(model="m")
CHAT = Wanted(pb.GenerateRequest(priority=pb.PRIORITY_INTERACTIVE))


async def engines(*in_flight: int) -> list[Engine]:
    return [Engine(EngineClient(f"127.0.0.1:{n + 1}"), UP, busy) for n, busy in enumerate(in_flight)]


async def test_the_least_busy_engine_gets_the_request() -> None:
    found = await engines(3, 1, 2)
    assert pick(found, [], 0.0, CHAT) is found[1]


async def test_equals_take_turns() -> None:
    found = await engines(0, 0)
    found[0].turn = 5
    assert pick(found, [], 0.0, CHAT) is found[1]


async def test_an_engine_that_is_down_or_was_tried_is_left_out() -> None:
    found = await engines(0, 1, 2)
    found[0].info = None
    assert pick(found, [found[1]], 0.0, CHAT) is found[2]
    assert pick(found, found, 0.0, CHAT) is None


async def test_an_engine_that_was_full_comes_after_the_others_until_its_time_is_over() -> None:
    found = await engines(0, 3)
    found[0].full_until_s = 5.0
    assert pick(found, [], 4.9, CHAT) is found[1]
    assert pick(found, [found[1]], 4.9, CHAT) is found[0], "better than nobody"
    assert pick(found, [], 5.0, CHAT) is found[0]
