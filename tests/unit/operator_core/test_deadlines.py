"""How the work with a deadline stands, from samples and the policy's memory."""

import math

import pytest
from engine_samples import sample

from headway_operator.core.deadlines import Windows, outlook
from headway_operator.core.observed import ClassSample, EngineSample
from headway_planner.coordinator import Intake, Memory, Totals
from headway_planner.deferred import Asked, Backlog, Deferred, spare_s


def engine(here: int, finished: int = 0, late: int = 0, boot: str = "a") -> EngineSample:
    """An engine with so many requests that are not finished."""
    return sample(boot_id=boot, classes={"batch": ClassSample(admitted=here + finished, finished=finished, late=late)})


def now(*here: int) -> Windows:
    """Engines with so many, in which nothing ended."""
    return Windows([(engine(count), engine(count)) for count in here])


def memory(waiting: float, marks: tuple[tuple[float, float], ...], work: float = 0.0, finished: float = 0.0) -> Memory:
    """At second 1000, with `work` engines of other classes."""
    seen = Deferred(waiting + finished, 0.0, finished, 0.0, 0.0, waiting, 0.0)
    return Memory(last=Intake(1000.0, 1, 1, Totals()), work=(work,) * 100, backlog=Backlog(seen, marks))


def test_even_work_is_done_when_all_engines_have_done_their_part() -> None:
    found = outlook(900.0, now(50, 50), Asked(190.0, 1), memory(100, ((1000.0, 100.0),)))
    assert (found.waiting, found.replicas) == (100, 1)
    assert found.done_s == pytest.approx(100.0)
    assert found.spare_s == pytest.approx(800.0)


def test_what_waits_in_one_engine_is_not_done_by_another() -> None:
    found = outlook(900.0, now(100, 0), Asked(190.0, 1), memory(100, ((1000.0, 100.0),)))
    assert found.done_s == pytest.approx(200.0)


def moving(here: int, waiting: int, moved: int) -> tuple[EngineSample, EngineSample]:
    """An engine from which (below 0) or to which a gateway has moved so many requests."""
    one = ClassSample(admitted=here - moved, moved=moved)
    last = sample(classes={"batch": one}, num_waiting=waiting, num_waiting_batch=waiting)
    return last, last


def test_what_waits_is_shared_where_a_gateway_moves_it() -> None:
    seen = memory(104, ((1000.0, 104.0),))
    shared = Windows([moving(100, 96, -4), moving(4, 0, 4)])
    assert outlook(900.0, shared, Asked(190.0, 1), seen).done_s == pytest.approx(100.0)
    stays = Windows([moving(100, 96, 0), moving(4, 0, 0)])
    assert outlook(900.0, stays, Asked(190.0, 1), seen).done_s == pytest.approx(200 * 100 / 104)


def test_what_runs_stays_where_it_is_whoever_moves_what_waits() -> None:
    shared = Windows([moving(8, 0, 0), moving(2, 2, 2)])
    assert outlook(900.0, shared, Asked(19.0, 1), memory(10, ((1000.0, 10.0),))).done_s == pytest.approx(20 * 8 / 10)


def test_other_classes_take_their_part_of_each_engine_first() -> None:
    seen = memory(100, ((1000.0, 100.0),), work=0.9)
    found = outlook(900.0, now(50, 50), Asked(190.0, 1), seen)
    assert found.done_s == pytest.approx(190.0)
    crowded = outlook(900.0, now(50), Asked(190.0, 1), memory(50, ((1000.0, 50.0),), work=0.96))
    assert (crowded.done_s, crowded.will_be_late) == (math.inf, True)


def test_the_oldest_are_finished_first_and_the_tightest_decides() -> None:
    # 60 came at 200 and 40 at 1000; the deadline is 900: the older ones have 100 s left and take 60 of 100.
    seen = memory(100, ((200.0, 60.0), (1000.0, 100.0)))
    found = outlook(900.0, now(100), Asked(95.0, 1), seen)
    assert found.spare_s == pytest.approx(100 - 60)
    assert not found.will_be_late
    assert outlook(900.0, now(100), Asked(190.0, 2), seen).spare_s == pytest.approx(100 - 120)


def test_what_is_finished_came_first() -> None:
    seen = memory(40, ((200.0, 60.0), (1000.0, 100.0)), finished=60.0)
    assert outlook(900.0, now(40), Asked(38.0, 1), seen).spare_s == pytest.approx(860)


def test_ended_and_late_requests_are_those_of_the_window() -> None:
    windows = [(engine(5, 10, 1), engine(5, 30, 4)), (engine(0, 100, 50), engine(0, 3, 2, "b")), (engine(1, 7, 7),) * 2]
    found = outlook(900.0, Windows(windows), None, Memory())
    assert (found.finished, found.late) == (20 + 3, 3 + 2)
    assert (found.done_s, found.spare_s, found.replicas, found.will_be_late) == (None, None, None, False)


def test_nothing_here_is_never_late() -> None:
    seen = memory(0, ((200.0, 60.0),), finished=60.0)
    found = outlook(900.0, Windows([(engine(0, 60), engine(0, 60))]), Asked(0.0, 1), seen)
    assert (found.waiting, found.done_s, found.spare_s) == (0, 0.0, math.inf)
    assert spare_s(Backlog(), 0.0, 60.0, 10.0) == math.inf
    assert outlook(900.0, Windows([]), None, Memory()).waiting == 0


def test_engines_that_are_looked_at_stand_for_the_others() -> None:
    pair = (engine(50, 10, 1), engine(50, 30, 4))
    found = outlook(900.0, Windows([pair, pair], share=3.0), Asked(570.0, 1), memory(300, ((1000.0, 300.0),), work=3.0))
    assert (found.waiting, found.finished, found.late) == (300, 120, 18)
    assert found.done_s == pytest.approx(570 / 6 / (0.95 - 0.5))
