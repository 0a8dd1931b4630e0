"""Who is asked to give batch work back, and for whom."""

from headway_gateway.balance import STAY_S, give_backs
from headway_gateway.engine import Engine, Waiting, Wanted, pick
from headway_gateway.prompt import Prompt
from headway_rpc import pb
from headway_rpc.client import EngineClient

BATCH = pb.GenerateRequest(priority=pb.PRIORITY_BATCH)
CHAT = pb.GenerateRequest(priority=pb.PRIORITY_INTERACTIVE)
SHORT = Prompt(1, ())


def engine(
    room: int | None, *arrivals_s: float, stays_until_s: float = 0.0, model: str = "m", up: bool = True
) -> Engine:
    """One with batch requests of this gateway that came at these times and have no token yet."""
    info = pb.ModelInfo(model=model) if up else None
    found = Engine(EngineClient("127.0.0.1:1"), info, model=model, room=room, in_flight=len(arrivals_s))
    for second in arrivals_s:
        found.unanswered[pb.PRIORITY_BATCH].add(f"{second:g}", Waiting(second, stays_until_s))
    return found


def asked(*engines: Engine, now: float = 100.0) -> list[tuple[int, tuple[str, ...], int]]:
    found = give_backs(engines, now)
    return [(engines.index(one.source), one.request_ids, one.most) for one in found]


async def test_as_many_are_asked_back_as_find_a_slot_elsewhere() -> None:
    assert asked(engine(-5, 1, 2, 3, 4, 5), engine(2)) == [(0, ("1", "2", "3", "4", "5"), 2)]


async def test_no_more_than_wait_there() -> None:
    assert asked(engine(-1, 1, 2, 3), engine(8)) == [(0, ("1", "2", "3"), 1)]
    assert asked(engine(-9, 1), engine(8)) == [(0, ("1",), 1)]


async def test_who_has_a_slot_for_its_own_work_keeps_it() -> None:
    assert asked(engine(0, 1, 2), engine(3)) == asked(engine(2, 1, 2), engine(3)) == []


async def test_nothing_is_asked_for_while_nobody_has_room() -> None:
    assert asked(engine(-5, 1, 2), engine(0)) == asked(engine(-5, 1, 2), engine(-1, 3)) == []


async def test_the_work_that_came_first_moves_first() -> None:
    assert asked(engine(-2, 7, 8), engine(-2, 3, 4), engine(3)) == [(1, ("3", "4"), 2), (0, ("7", "8"), 1)]


async def test_room_is_promised_once() -> None:
    full, free, freer = engine(-9, *range(9)), engine(1), engine(3)
    assert asked(full, free, freer) == [(0, tuple(map(str, range(9))), 4)]
    assert (free.promised, freer.promised) == (1, 3)
    assert asked(full, free, freer) == []
    freer.take_word(pb.Loads(room_for_batch=2))
    assert [most for _, _, most in asked(full, free, freer)] == [2]


async def test_an_engine_that_is_down_or_serves_something_else_or_does_not_tell_is_no_target() -> None:
    full = engine(-5, 1, 2)
    assert asked(full, engine(3, up=False)) == asked(full, engine(3, model="other")) == asked(full, engine(None)) == []


async def test_an_engine_that_drains_gives_back_what_waits_in_it() -> None:
    assert asked(engine(-2, 1, 2, up=False), engine(1)) == [(0, ("1", "2"), 1)]


async def test_a_request_that_was_moved_stays_for_a_while() -> None:
    moved = engine(-1, 1, stays_until_s=100.0 + STAY_S)
    assert asked(moved, engine(1)) == []
    assert asked(moved, engine(1), now=100.0 + STAY_S) == [(0, ("1",), 1)]


async def test_what_is_sent_and_what_ends_is_counted_on_between_two_looks() -> None:
    one = engine(1)
    sent = pb.GenerateRequest(request_id="a", priority=pb.PRIORITY_BATCH)
    one.entrust(sent, Waiting(1.0, 1.0))
    assert (one.room, one.in_flight, list(one.waiting)) == (0, 1, ["a"])
    one.release(sent)
    assert (one.room, one.in_flight, list(one.waiting)) == (1, 0, [])
    one.promised = 1
    one.entrust(pb.GenerateRequest(request_id="b", priority=pb.PRIORITY_BATCH, waited_ms=1), Waiting(1.0, 11.0))
    assert (one.room, one.promised) == (0, 0)


async def test_a_request_without_a_class_is_batch_where_that_is_the_default() -> None:
    one = engine(1)
    for default in (pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH):
        one.take_word(pb.Loads(room_for_batch=1, default_class=default))
        assert one.class_of(pb.GenerateRequest()) == default
    one.entrust(pb.GenerateRequest(request_id="chat", priority=pb.PRIORITY_INTERACTIVE), Waiting(1.0, 1.0))
    assert not one.waiting


async def test_batch_work_goes_where_it_finds_a_slot_and_online_work_to_the_least_busy() -> None:
    idle, roomy, giver = engine(-3), engine(2), engine(-5)
    roomy.in_flight = 5
    assert pick([idle, roomy], [], 0.0, Wanted(BATCH, SHORT)) is roomy
    assert pick([idle, roomy], [], 0.0, Wanted(CHAT, SHORT)) is idle
    roomy.promised = 2
    assert pick([idle, roomy], [], 0.0, Wanted(BATCH, SHORT)) is idle
    assert pick([idle, roomy], [], 0.0, Wanted(BATCH, SHORT, giver)) is roomy, "it is who the room was promised to"


async def test_who_gave_a_request_back_gets_it_again_only_when_nobody_else_takes_it() -> None:
    giver, other = engine(1), engine(-5)
    other.full_until_s, other.in_flight = 9.0, 7
    wanted = Wanted(BATCH, SHORT, giver)
    assert pick([giver, other], [], 0.0, wanted) is other
    assert pick([giver, other], [other], 0.0, wanted) is giver
