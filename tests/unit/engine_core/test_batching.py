"""The rule of each batching mode, as the module's table has it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.core import batching
from headway_engine.core.batching import QueueView
from headway_engine.core.limits import BatchingMode, Limits

limits_of = st.builds(
    Limits,
    max_num_seqs=st.integers(1, 64),
    max_num_batched_tokens=st.integers(64, 4096),
    batch_wait_ms=st.integers(0, 1000),
    max_queued_requests=st.just(100),
    batching_mode=st.sampled_from(BatchingMode),
)


@st.composite
def queues(draw: st.DrawFn) -> QueueView:
    oldest = draw(st.floats(0, 10))
    return QueueView(
        now=draw(st.floats(10, 12)),
        waiting=draw(st.integers(1, 80)),
        running=draw(st.integers(0, 64)),
        backlog=draw(st.integers(1, 8192)),
        oldest_s=oldest,
        newest_s=draw(st.floats(oldest, 10)),
    )


def rule(limits: Limits, queue: QueueView) -> bool:
    """The table again, in its own words."""
    n, t, w = limits.max_num_seqs, limits.max_num_batched_tokens, limits.batch_wait_ms / 1000
    q, r, b = queue.waiting, queue.running, queue.backlog
    f = max(1, n - r)
    oldest_over = queue.now >= queue.oldest_s + w
    return {
        BatchingMode.CONTINUOUS: r > 0 or q >= n or b >= t or oldest_over,
        BatchingMode.DYNAMIC: q >= f or b >= t or oldest_over,
        BatchingMode.ADAPTIVE: r == 0 or q >= min(f, math.ceil(r / 4)) or oldest_over,
        BatchingMode.STATIC: r == 0 and (q >= n or queue.now >= queue.newest_s + w),
    }[limits.batching_mode]


@given(limits_of, queues())
def test_a_group_is_dispatched_when_the_table_says_so(limits: Limits, queue: QueueView) -> None:
    assert batching.dispatches(limits, queue) == rule(limits, queue)


@given(limits_of, queues())
def test_nobody_is_dispatched_when_nobody_waits(limits: Limits, queue: QueueView) -> None:
    empty = replace(queue, waiting=0)
    assert not batching.dispatches(limits, empty)
    assert batching.group(limits, empty, 3) == 0
    assert batching.next_dispatch_s(limits, empty) is None


@given(limits_of, queues())
def test_an_idle_engine_dispatches_at_the_latest_when_it_said(limits: Limits, queue: QueueView) -> None:
    idle = replace(queue, running=0)
    due = batching.next_dispatch_s(limits, idle)
    assert due is not None
    assert batching.dispatches(limits, replace(idle, now=due))


@given(limits_of, queues())
def test_without_a_wait_an_idle_engine_dispatches_at_once(limits: Limits, queue: QueueView) -> None:
    assert batching.dispatches(replace(limits, batch_wait_ms=0), replace(queue, running=0))


@given(limits_of, queues(), st.integers(0, 5))
def test_a_group_is_no_larger_than_the_queue_and_the_free_slots(limits: Limits, queue: QueueView, left: int) -> None:
    count = batching.group(limits, queue, left)
    assert 0 <= count <= queue.waiting
    if limits.batching_mode is not BatchingMode.CONTINUOUS and not left:
        assert count <= max(1, limits.max_num_seqs - queue.running)


@given(limits_of, queues(), st.integers(1, 5))
def test_a_dispatched_group_goes_on_whatever_the_rule_says_of_those_behind_it(
    limits: Limits, queue: QueueView, left: int
) -> None:
    if limits.batching_mode is not BatchingMode.CONTINUOUS:
        assert batching.group(limits, queue, left) == min(left, queue.waiting)


@given(limits_of, st.integers(0, 10_000), st.integers(0, 64))
def test_a_step_has_a_token_for_each_decode_and_never_more_than_the_limit(
    limits: Limits, backlog: int, decoding: int
) -> None:
    tokens = batching.step_tokens(limits, backlog, decoding)
    most = limits.max_num_batched_tokens
    assert min(most, decoding + 1) <= tokens <= most
    if limits.batching_mode is not BatchingMode.ADAPTIVE:
        assert tokens == most


@given(st.integers(64, 4096), st.integers(0, 10_000), st.integers(0, 10_000))
def test_adaptive_takes_larger_bites_of_a_longer_queue(most: int, one: int, other: int) -> None:
    limits = Limits(64, most, 0, 100, BatchingMode.ADAPTIVE)
    short, long = sorted([one, other])
    assert batching.step_tokens(limits, short, 8) <= batching.step_tokens(limits, long, 8)
    assert batching.step_tokens(limits, 0, 8) == min(most, 8 + most // 8)
    assert batching.step_tokens(limits, 2 * most, 8) == most


@pytest.mark.parametrize(("running", "waiting", "joins"), [(0, 1, True), (8, 1, False), (8, 2, True), (62, 2, True)])
def test_adaptive_interrupts_the_more_streams_the_rarer(running: int, waiting: int, joins: bool) -> None:
    limits = Limits(64, 4096, 500, 100, BatchingMode.ADAPTIVE)
    assert batching.dispatches(limits, QueueView(0.1, waiting, running, 10, 0.0, 0.0)) == joins
