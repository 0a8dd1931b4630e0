"""Which engine gets a request."""

from headway_gateway.engine import TOKENS_PER_REQUEST, Engine, Waiting, Wanted, pick
from headway_gateway.prompt import PIECE_TOKENS, Prompt, measured
from headway_rpc import pb
from headway_rpc.client import EngineClient

UP = pb.ModelInfo(model="m")
CLASSES = REALTIME, INTERACTIVE, BATCH = pb.PRIORITY_REALTIME, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH
CHAT = Wanted(pb.GenerateRequest(priority=INTERACTIVE), Prompt(1, ()))
LONG = measured(pb.GenerateRequest(text="a conversation " * 200))
NEXT_TURN = Wanted(CHAT.request, LONG)


async def engines(*in_flight: int) -> list[Engine]:
    return [Engine(EngineClient(f"127.0.0.1:{n + 1}"), UP, busy) for n, busy in enumerate(in_flight)]


def give(engine: Engine, tokens: int, kind: "pb.Priority.ValueType" = INTERACTIVE) -> pb.GenerateRequest:
    """A request without a token, whose prompt has so many."""
    request = pb.GenerateRequest(request_id=f"{engine.in_flight}", priority=kind)
    engine.entrust(request, Waiting(0.0, 0.0, tokens))
    return request


async def with_a_conversation(*in_flight: int) -> list[Engine]:
    """The first one has computed `LONG`; each runs 64 requests at once."""
    found = await engines(*in_flight)
    for engine in found:
        engine.take_word(pb.Loads(max_total_num_tokens=100_000, max_running_requests=64, boot_id="a"))
    found[0].prefixes.note(LONG)
    return found


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


async def test_a_long_prompt_without_a_token_weighs_as_much_as_several_requests() -> None:
    found = await engines(0, 3)
    long = give(found[0], 3 * TOKENS_PER_REQUEST)
    assert pick(found, [], 0.0, CHAT) is found[1]
    found[0].begin(long)
    assert pick(found, [], 0.0, CHAT) is found[0], "its answer runs like any other"
    found[0].release(long)
    assert found[0].work_before(CHAT.request, Prompt(0, ())) == 0


async def test_what_a_better_class_comes_before_is_no_work_for_it_until_it_runs() -> None:
    for kind in CLASSES:
        (engine,) = await engines(0)
        waiting = give(engine, 10 * TOKENS_PER_REQUEST, kind)
        seen = [engine.work_before(pb.GenerateRequest(priority=one), Prompt(0, ())) for one in CLASSES]
        assert seen == [11 if one >= kind else 0 for one in CLASSES]
        engine.begin(waiting)
        assert {engine.work_before(pb.GenerateRequest(priority=one), Prompt(0, ())) for one in CLASSES} == {1}


async def test_a_conversation_stays_where_it_is_cached_until_others_are_sooner_done_with_all_of_it() -> None:
    spared = len(LONG.pieces) * PIECE_TOKENS // TOKENS_PER_REQUEST
    assert spared == 3
    for busy, chosen in ((0, 0), (spared, 0), (spared + 1, 1)):
        found = await with_a_conversation(busy, 0)
        assert pick(found, [], 0.0, NEXT_TURN) is found[chosen], busy
        assert pick(found, [], 0.0, CHAT) is found[busy > 0], "another prompt goes to the least busy one"


async def test_what_is_cached_is_worth_nothing_behind_a_queue() -> None:
    found = await with_a_conversation(2, 1)
    found[0].slots = 2
    assert pick(found, [], 0.0, NEXT_TURN) is found[1]


async def test_an_engine_that_began_anew_has_nothing_cached() -> None:
    found = await with_a_conversation(1, 0)
    loads = pb.Loads(max_total_num_tokens=100_000, max_running_requests=64, boot_id="a")
    found[0].take_word(loads)
    assert pick(found, [], 0.0, NEXT_TURN) is found[0]
    loads.boot_id = "b"
    found[0].take_word(loads)
    assert pick(found, [], 0.0, NEXT_TURN) is found[1]


async def test_an_engine_that_does_not_tell_its_room_is_expected_to_cache_nothing() -> None:
    found = await engines(0)
    found[0].take_word(pb.Loads(max_running_requests=64))
    found[0].prefixes.note(LONG)
    assert found[0].prefixes.cached(LONG) == 0
