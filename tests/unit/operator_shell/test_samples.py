"""The history of a pod's samples stays small and keeps both ends of the window."""

from dataclasses import astuple, fields, replace
from itertools import pairwise

import pytest
from fake_control import stats

from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.plan import LimitsPatch
from headway_operator.shell.samples import History, decode, is_busy, limits_message, limits_of
from headway_rpc import pb

SAMPLE = decode(stats(), taken_s=0.0)


def filled(window_s: float, seconds: int) -> History:
    history = History(window_s)
    for second in range(seconds):
        history.add(decode(stats(received=second), taken_s=float(second)))
    return history


@pytest.mark.parametrize("window_s", [10.0, 60.0, 600.0, 3600.0])
def test_a_history_covers_the_window_with_few_samples(window_s: float) -> None:
    history = filled(window_s, 8000)
    taken = [sample.taken_s for sample in history.view()]
    assert taken == sorted(taken)
    assert taken[-1] - taken[0] >= window_s
    assert taken[-1] - taken[0] <= window_s + 10.0
    assert len(history) <= 90
    assert max(second - first for first, second in pairwise(taken)) <= window_s / 64 + 1.0


def test_the_last_ten_seconds_are_kept_in_full() -> None:
    taken = [sample.taken_s for sample in filled(3600.0, 5000).view()]
    assert taken[-10:] == [float(second) for second in range(4990, 5000)]


def test_an_idle_engine_shares_its_histograms() -> None:
    first, second = filled(60.0, 2).view()
    assert first.ttft is second.ttft
    assert first.effective is second.effective


def test_an_answer_that_was_on_its_way_when_limits_were_changed_does_not_bring_the_old_ones_back() -> None:
    """Else the next pass would change them again, with a revision that the engine refuses."""
    history = filled(60.0, 2)
    history.add_config(pb.RuntimeConfig(revision=9, effective=pb.Limits(max_num_seqs=7), lease_remaining_seconds=60))
    history.add(decode(stats(received=5), taken_s=3.0))
    latest = history.latest
    assert latest is not None
    assert (latest.revision, latest.effective.max_num_seqs, latest.lease_remaining_s) == (9, 7, 60)
    assert latest.requests_received == 5
    reborn = replace(decode(stats(), taken_s=4.0), boot_id="another")
    history.add(reborn)
    assert history.latest == reborn


def test_every_field_of_the_wire_reaches_the_sample() -> None:
    message = pb.Stats(
        boot_id="b",
        loads=pb.Loads(
            num_running=1,
            num_waiting=2,
            waiting_prompt_tokens=3,
            token_usage=0.5,
            draining=True,
            max_total_num_tokens=20,
        ),
        ttft=pb.Histogram(buckets=[1], sum_ms=1.5),
        queue_wait=pb.Histogram(buckets=[2], sum_ms=2.5),
        prefill=pb.Histogram(buckets=[3], sum_ms=3.5),
        itl=pb.Histogram(buckets=[4], sum_ms=4.5),
        step=pb.Histogram(buckets=[5], sum_ms=5.5),
        requests_received=6,
        requests_finished={"stop": 7},
        requests_rejected={"invalid": 3, "queue_full": 5},
        prompt_tokens=9,
        generation_tokens=10,
        preemptions=11,
        cached_prompt_tokens=17,
        steps=18,
        config=pb.RuntimeConfig(
            revision=12,
            effective=pb.Limits(max_num_seqs=13),
            baseline=pb.Limits(max_num_batched_tokens=14, batch_wait_ms=0, max_queued_requests=15),
            lease_remaining_seconds=16.5,
        ),
    )
    assert decode(message, 17.0) == EngineSample(
        taken_s=17.0,
        boot_id="b",
        num_running=1,
        num_waiting=2,
        waiting_prompt_tokens=3,
        kv_usage=0.5,
        draining=True,
        ttft=(1,),
        queue_wait=(2,),
        prefill=(3,),
        itl=(4,),
        step=(5,),
        requests_received=6,
        requests_finished=7,
        requests_rejected=8,
        prompt_tokens=9,
        generation_tokens=10,
        preemptions=11,
        revision=12,
        effective=LimitsPatch(max_num_seqs=13),
        baseline=LimitsPatch(None, 14, 0, 15),
        lease_remaining_s=16.5,
        cached_prompt_tokens=17,
        steps=18,
        step_sum_ms=5.5,
        kv_tokens=20,
        queue_full=5,
    )


def test_what_is_counted_of_a_class_reaches_the_sample() -> None:
    one = pb.ClassStats(
        workload_class=pb.PRIORITY_BATCH,
        ttft=pb.Histogram(buckets=[1]),
        queue_wait=pb.Histogram(buckets=[2]),
        itl=pb.Histogram(buckets=[3]),
        requests_finished=4,
        requests_late=5,
        requests_admitted=6,
        prompt_tokens_admitted=7,
        prompt_tokens=8,
        cached_prompt_tokens=9,
        requests_refused=10,
        requests_moved=-11,
    )
    loads = pb.Loads(num_waiting_batch=10, waiting_batch_prompt_tokens=0)
    found = decode(pb.Stats(loads=loads, classes=[one]), 0.0)
    assert found.batch == ClassSample((1,), (2,), (3,), 6, 4, 5, 10, 7, 8, 9, -11)
    assert (found.num_waiting_batch, found.waiting_batch_prompt_tokens, found.queued_batch_tokens) == (10, 0, 0)
    older = decode(pb.Stats(loads=pb.Loads(num_waiting_batch=10), classes=[one]), 0.0)
    assert older.waiting_batch_prompt_tokens is None


def test_a_deadline_goes_to_an_engine_and_comes_back() -> None:
    assert limits_of(limits_message(LimitsPatch(batch_deadline_ms=900_000))).batch_deadline_ms == 900_000
    assert limits_of(pb.Limits()).batch_deadline_ms is None, "an older engine does not know it"


def test_the_targets_of_classes_go_to_an_engine_and_come_back() -> None:
    sent = LimitsPatch(interactive_itl_target_ms=100, batch_itl_target_ms=0)
    assert limits_of(limits_message(sent)) == sent
    older = limits_of(pb.Limits(itl_target_ms=50))
    assert (older.interactive_itl_target_ms, older.batch_itl_target_ms) == (None, None)
    assert older.agrees(replace(sent, itl_target_ms=50)), "it keeps to the strictest one"


def test_when_first_tokens_are_due_goes_to_an_engine_and_comes_back() -> None:
    sent = LimitsPatch(ttft_target_ms=400, interactive_ttft_target_ms=1500)
    assert limits_of(limits_message(sent)) == sent
    none = LimitsPatch(ttft_target_ms=0, interactive_ttft_target_ms=0)
    assert limits_of(limits_message(none)) == none, "0 takes back what an engine was told before"
    assert not none.agrees(sent)
    older = limits_of(pb.Limits(itl_target_ms=50))
    assert (older.ttft_target_ms, older.interactive_ttft_target_ms) == (None, None)
    assert older.agrees(replace(sent, itl_target_ms=50)), (
        "it serves in order of arrival, and is not told again and again"
    )


def test_every_limit_of_the_wire_has_its_name_in_the_core_and_comes_back() -> None:
    assert {one.name for one in fields(LimitsPatch)} == {one.name for one in pb.Limits.DESCRIPTOR.fields}
    every = LimitsPatch(8, 64, 5, 9, "dynamic", "low-tail", 50, "batch", 20, 7, 1000, 100, 200, 400, 1500)
    assert None not in astuple(every)
    assert limits_of(limits_message(every)) == every


def test_a_mode_that_a_newer_engine_has_is_none_that_is_known() -> None:
    assert limits_of(pb.Limits(batching_mode=99, max_num_seqs=4)) == LimitsPatch(max_num_seqs=4)  # type: ignore[arg-type]


def test_an_unset_limit_is_not_sent_and_zero_is() -> None:
    patch = LimitsPatch(max_num_seqs=4, batch_wait_ms=0, batching_mode="adaptive", profile="low-tail", itl_target_ms=9)
    message = limits_message(patch)
    assert not message.HasField("max_queued_requests")
    assert message.HasField("batch_wait_ms")
    assert limits_of(message) == patch


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": "boot-2"},
        {"requests_received": 1},
        {"revision": 2},
        {"num_running": 1},
        {"num_waiting": 1},
        {"draining": True},
    ],
)
def test_a_change_in_an_engine_is_worth_a_pass(change: dict[str, object]) -> None:
    assert not is_busy(SAMPLE, SAMPLE)
    assert is_busy(replace(SAMPLE, **change), SAMPLE)  # type: ignore[arg-type]  # each has its field's type
