"""Prompts that make each other late inside one engine: the law beside a queue that is simulated, and what it asks for."""

import random
from itertools import pairwise

import pytest

from headway_planner.blocking import (
    BINS,
    HALF,
    HALF_LIFE_S,
    KEPT,
    LATE,
    SPARED,
    Prefills,
    engines_apart,
    late,
    law,
    remembered,
)

TARGET_MS = 1500.0
EVEN: Prefills = ((400.0, 1000.0),)
UNEVEN: Prefills = ((100.0, 900.0), (1300.0, 80.0), (5000.0, 20.0))
SHORT: Prefills = ((20.0, 500.0), (60.0, 500.0))


def mean_ms(prefills: Prefills) -> float:
    return sum(length * count for length, count in prefills) / sum(count for _, count in prefills)


def simulated(prefills: Prefills, busy: float, requests: int = 400_000) -> float:
    """Share of the prompts that an engine makes late which are not late alone: random arrivals, one after another."""
    chance = random.Random(1)
    lengths = chance.choices([one for one, _ in prefills], [count for _, count in prefills], k=requests)
    between_ms = mean_ms(prefills) / busy
    wait = found = 0.0
    for length in lengths:
        found += length <= TARGET_MS < wait + length
        wait = max(0.0, wait + length - chance.expovariate(1 / between_ms))
    return found / requests


@pytest.mark.parametrize("busy", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("prefills", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_what_is_late_is_what_a_queue_of_random_arrivals_shows_but_for_what_routing_spares(
    prefills: Prefills, busy: float
) -> None:
    queue = law(prefills, mean_ms(prefills), TARGET_MS)
    assert queue is not None
    assert late(queue, busy) == pytest.approx(SPARED * simulated(prefills, busy), rel=0.15, abs=0.002)


def test_prompts_that_are_late_alone_are_no_reason_for_a_replica() -> None:
    queue = law(((4000.0, 1000.0),), 4000.0, TARGET_MS)
    assert queue is not None
    assert queue.alone == 1
    assert late(queue, 0.9) == 0
    assert engines_apart(queue, 5.0, 100) == (1, 1)


def test_uneven_prompts_need_more_engines_than_even_ones_of_the_same_work() -> None:
    even = ((mean_ms(UNEVEN), 1000.0),)
    counts = [engines_apart(law(one, mean_ms(one), TARGET_MS), 3.0, 100)[0] for one in (even, UNEVEN)]
    assert counts[0] <= 5
    assert counts[1] > 10


def test_the_count_is_the_smallest_that_leaves_no_more_late_than_allowed() -> None:
    for prefills in (UNEVEN, ((100.0, 900.0), (1000.0, 60.0), (5000.0, 200.0))):
        queue = law(prefills, mean_ms(prefills), TARGET_MS)
        assert queue is not None
        allowed = max(LATE, HALF * queue.alone)
        count, kept = engines_apart(queue, 3.0, 1000)
        assert late(queue, 3.0 / count) <= allowed < late(queue, 3.0 / (count - 1))
        assert kept > count
        assert late(queue, 3.0 / kept) <= allowed / KEPT < late(queue, 3.0 / (kept - 1))
    assert engines_apart(queue, 3.0, count - 1) == (count - 1, count - 1)


def test_where_a_share_of_the_prompts_is_late_alone_half_as_many_more_may_be() -> None:
    longest = ((100.0, 900.0), (1300.0, 80.0), (5000.0, 200.0))
    queue = law(longest, mean_ms(longest), TARGET_MS)
    assert queue is not None
    assert HALF * queue.alone > LATE
    assert late(queue, 3.0 / engines_apart(queue, 3.0, 1000)[0]) > LATE


def test_short_prompts_ask_for_what_their_work_needs() -> None:
    assert engines_apart(law(SHORT, mean_ms(SHORT), TARGET_MS), 3.0, 100) == (4, 4)


def test_no_prompts_need_one_engine() -> None:
    queue = law(UNEVEN, mean_ms(UNEVEN), TARGET_MS)
    assert engines_apart(queue, 0.0, 100) == (1, 1)
    assert engines_apart(None, 3.0, 100) == (1, 1)


def test_few_prompts_say_nothing() -> None:
    few = tuple((length, count / 20) for length, count in UNEVEN)
    assert law(few, mean_ms(few), TARGET_MS) is None
    assert law((), 100.0, TARGET_MS) is None
    assert law(UNEVEN, 0.0, TARGET_MS) is None


def test_prefills_that_full_batches_made_longer_count_as_the_step_model_has_them() -> None:
    longer = tuple((1.7 * length, count) for length, count in UNEVEN)
    found, real = law(longer, mean_ms(UNEVEN), TARGET_MS), law(UNEVEN, mean_ms(UNEVEN), TARGET_MS)
    assert found is not None
    assert real is not None
    assert found.left == pytest.approx(real.left)
    assert found.alone == pytest.approx(real.alone)


def test_a_mean_that_crosses_the_target_moves_no_more_than_its_part_over_it() -> None:
    shares = [
        found.alone for length in range(1380, 1640, 10) if (found := law(((float(length), 1000.0),), 1e9, TARGET_MS))
    ]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert max(after - before for before, after in pairwise(shares)) < 0.1


def test_what_is_remembered_fades_and_new_prompts_are_added() -> None:
    found = dict(remembered(((100.0, 50.0), (900.0, 8.0)), ((100.0, 0.5), (300.0, 1.0)), HALF_LIFE_S))
    assert found == {100.0: 25 + 0.5 * HALF_LIFE_S, 900.0: 4.0, 300.0: HALF_LIFE_S}
    assert remembered(((100.0, 1.0),), (), 20 * HALF_LIFE_S) == ()


def test_the_law_has_no_more_places_than_bins() -> None:
    queue = law(UNEVEN, mean_ms(UNEVEN), TARGET_MS)
    assert queue is not None
    assert len(queue.left) == len(queue.room) == BINS
    assert sum(queue.room) + queue.alone == pytest.approx(1)
