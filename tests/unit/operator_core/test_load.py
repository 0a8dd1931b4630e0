"""Samples to windows: resets, silence, contradictions, pooling, quantiles."""

import pytest
from engine_samples import buckets, sample
from hypothesis import given
from hypothesis import strategies as st

from headway_operator.core import histogram
from headway_operator.core.load import fleet_load
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.window import pod_window


def at(second: float, **changes: object) -> EngineSample:
    return sample(taken_s=second, **changes)


def test_window_is_the_difference_to_the_last_sample_before_it():
    series = [at(0, requests_received=5), at(10, requests_received=8), at(40, requests_received=20)]
    window = pod_window(series, 40, 30)
    assert window is not None
    assert window.counts["requests_received"] == 15
    short = pod_window(series, 40, 29)
    assert short is not None
    assert short.counts["requests_received"] == 12


def test_restart_of_an_engine_counts_from_zero_again():
    series = [at(0, requests_received=100), at(1, requests_received=110), at(2, boot_id="b", requests_received=3)]
    window = pod_window(series, 2, 60)
    assert window is not None
    assert window.counts["requests_received"] == 13


def test_histograms_survive_a_restart():
    series = [at(0, ttft=buckets(5, 5)), at(1, ttft=buckets(5, 5, 50)), at(2, boot_id="b", ttft=buckets(500))]
    window = pod_window(series, 2, 60)
    assert window is not None
    assert histogram.count(window.histograms["ttft"]) == 2


def test_old_sample_is_silence():
    assert pod_window([at(0)], 10.1, 60) is None
    assert pod_window([at(0)], 10, 60) is not None
    assert pod_window([], 0, 60) is None


@pytest.mark.parametrize("kv_usage", [float("nan"), -0.1, 1.5])
def test_impossible_gauge_is_a_contradiction(kv_usage: float):
    assert pod_window([at(0), at(1, kv_usage=kv_usage)], 1, 60) is None


def test_counter_that_shrinks_without_a_restart_is_a_contradiction():
    assert pod_window([at(0, generation_tokens=9), at(1, generation_tokens=8)], 1, 60) is None
    assert pod_window([at(0, itl=buckets(5, 9)), at(1, itl=buckets(9))], 1, 60) is None


def test_silent_pod_is_left_out_and_named():
    samples = {"a": (at(0), at(20, num_waiting=3)), "b": (at(0),)}
    load = fleet_load(["a", "b"], samples, 20, 60)
    assert (load.view.serving, load.view.reporting) == (2, 1)
    assert load.silent == ("b",)
    assert load.queue_depth == 3


def test_pod_that_contradicted_itself_in_the_window_is_silent_though_its_last_answers_are_sound():
    sound = (at(0), at(10, requests_received=5))
    shrunk = (at(0, preemptions=9), at(9, preemptions=4), at(10, preemptions=5))
    load = fleet_load(["a", "b"], {"a": sound, "b": shrunk}, 10, 60)
    assert (load.silent, sorted(load.latest)) == (("b",), ["a"])
    assert (load.view.serving, load.view.reporting) == (2, 1)


def test_pods_are_pooled_by_requests_not_by_pod_averages():
    slow, fast = buckets(*[1000.0] * 1), buckets(*[10.0] * 99)
    samples = {"a": (at(0), at(10, ttft=slow)), "b": (at(0), at(10, ttft=fast))}
    view = fleet_load(["a", "b"], samples, 10, 60).view
    assert view.ttft.count == 100
    assert view.ttft.high_ms == pytest.approx(10, rel=0.1)


def test_one_sample_is_no_window():
    view = fleet_load(["a"], {"a": (at(0, requests_received=50, generation_tokens=900),)}, 0, 60).view
    assert (view.span_s, view.arrivals, view.active) == (0, 0, False)


def test_rates_and_gauges():
    series = (at(0), at(5, num_running=2), at(10, num_running=4, generation_tokens=300, prompt_tokens=100))
    load = fleet_load(["a"], {"a": series}, 10, 60)
    assert load.tokens_per_s == 30
    assert load.view.running == 2
    assert load.view.prompt_share == 0.25
    assert load.view.active


def test_a_queue_is_gone_when_every_pod_says_so_now():
    served = {"a": (at(0), at(1, num_waiting=6), at(2)), "b": (at(0), at(1), at(2))}
    view = fleet_load(["a", "b"], served, 2, 60).view
    assert (view.waiting > 0, view.emptied) == (True, True)
    assert not fleet_load(["a", "b"], {**served, "b": (at(0), at(2, num_waiting=1))}, 2, 60).view.emptied
    assert not fleet_load(["a", "b", "silent"], served, 2, 60).view.emptied


def test_quiet_needs_an_answer_of_every_pod():
    samples = {"a": (at(0), at(10))}
    assert fleet_load(["a"], samples, 10, 60).view.quiet
    assert not fleet_load(["a", "b"], samples, 10, 60).view.quiet


@pytest.mark.parametrize("value", [0.05, 0.1, 3.0, 87.0, 431.7, 60_000.0])
def test_quantile_is_within_its_bucket(value: float):
    found = histogram.quantile(buckets(*[value] * 10), 0.95)
    assert found == pytest.approx(max(value, 0.1), rel=0.11)


def test_quantile_interpolates_inside_a_bucket():
    one = (0, 100)
    assert histogram.quantile(one, 0.0) == pytest.approx(0.11)
    assert histogram.quantile(one, 1.0) == pytest.approx(0.121)


def test_empty_histogram_has_no_quantile():
    assert histogram.quantile((), 0.95) is None
    assert histogram.quantile((0, 0), 0.95) is None


def test_difference_of_equal_histograms_is_empty():
    assert histogram.subtract((1, 2), (1, 2)) == ()
    assert histogram.subtract((1, 2, 3), (1, 1)) == (0, 1, 3)
    assert histogram.subtract((1,), (1, 1)) is None


def test_merge_takes_the_longer_length():
    assert histogram.merge([(1,), (1, 2), ()]) == (2, 2)


def batch(*ttft_ms: float) -> dict[str, ClassSample]:
    return {"batch": ClassSample(ttft=buckets(*ttft_ms), queue_wait=buckets(*ttft_ms), itl=())}


def test_classes_are_windows_of_their_own_and_survive_a_restart():
    series = [at(0, classes=batch(5)), at(1, classes=batch(5, 50)), at(2, boot_id="b", classes=batch(500))]
    window = pod_window(series, 2, 60)
    assert window is not None
    assert histogram.count(window.classes["batch"].ttft) == 2
    first = pod_window([at(0), at(1, classes=batch(5))], 1, 60)
    assert first is not None
    assert histogram.count(first.classes["batch"].ttft) == 1


def test_a_class_that_shrinks_without_a_restart_is_a_contradiction():
    assert pod_window([at(0, classes=batch(5, 9)), at(1, classes=batch(9))], 1, 60) is None


def test_classes_are_pooled_over_the_pods():
    chat = {"interactive": ClassSample(ttft=buckets(7))}
    samples = {
        "a": (at(0), at(10, classes=batch(5, 5), num_waiting_batch=4)),
        "b": (at(0), at(10, classes=batch(9) | chat)),
    }
    load = fleet_load(["a", "b"], samples, 10, 60)
    assert {kind: histogram.count(one.ttft) for kind, one in load.classes.items()} == {"batch": 3, "interactive": 1}
    assert load.waiting_batch == 2  # the mean of two samples


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=30), st.floats(1, 1e5))
def test_the_share_within_a_bound_is_right_up_to_a_buckets_width(values: list[float], bound_ms: float):
    share = histogram.share_within(buckets(*values), bound_ms)
    assert share is not None
    assert sum(value <= bound_ms / 1.11 for value in values) <= share * len(values) + 1e-6
    assert share * len(values) - 1e-6 <= sum(value <= bound_ms * 1.11 for value in values)
    assert histogram.share_within((), bound_ms) is None


def test_a_new_pods_first_samples_are_no_queue_of_the_fleet():
    old = tuple(at(second) for second in range(61))
    # It is about to take all of it in.
    for new in ((at(60, num_waiting=40),), (at(57, num_waiting=40), at(60, num_waiting=40, num_waiting_batch=40))):
        load = fleet_load(["a", "b"], {"a": old, "b": new}, 60, 15)
        assert (load.view.reporting, load.view.waiting, load.waiting_batch) == (2, 0, 0)
        assert load.queue_depth == 40
    seen = tuple(at(second, num_waiting=40, num_waiting_batch=30) for second in range(56, 61))
    load = fleet_load(["a", "b"], {"a": old, "b": seen}, 60, 15)
    assert (load.view.waiting, load.waiting_batch) == (40, 30)


def test_where_every_engine_is_new_their_queues_are_the_fleets():
    load = fleet_load(["a", "b"], {"a": (at(59, num_waiting=2), at(60)), "b": (at(60, num_waiting=5),)}, 60, 15)
    assert load.view.waiting == 1
    assert fleet_load(["b"], {"b": (at(60, num_waiting=5),)}, 60, 15).view.waiting == 5
