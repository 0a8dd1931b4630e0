"""What is sent to engines whose limits are not the wanted ones."""

from dataclasses import replace

from engine_samples import LIMITS, sample

from headway_operator.api.v1alpha1 import BatchingMode, LimitValues, Profile
from headway_operator.core import tuning
from headway_operator.core.observed import EngineSample
from headway_operator.core.plan import LimitsPatch, SetLimits
from headway_operator.core.tuning import Limits

SPEC = LimitValues(max_num_seqs=4, max_num_batched_tokens=64, batch_wait_milliseconds=0, max_queued_requests=256)


def calls(wanted: LimitValues, found: EngineSample) -> list[SetLimits]:
    return tuning._calls("p", found, tuning._goal(Limits(wanted, wanted, None, "")), 30)


def test_a_mode_of_the_spec_is_sent_to_an_engine_that_has_another() -> None:
    known = replace(LIMITS, batching_mode="continuous", profile="throughput", itl_target_ms=50)
    found = sample(effective=known, baseline=known)
    assert calls(SPEC, found) == []
    adaptive = SPEC.model_copy(update={"batching_mode": BatchingMode.ADAPTIVE, "profile": Profile.LOW_TAIL})
    (call,) = calls(adaptive, found)
    assert (call.limits.batching_mode, call.limits.profile, call.lease_s) == ("adaptive", "low-tail", 0)


def test_an_engine_that_does_not_know_modes_is_not_told_again_and_again() -> None:
    adaptive = SPEC.model_copy(update={"batching_mode": BatchingMode.ADAPTIVE})
    assert calls(adaptive, sample()) == []
    assert len(calls(adaptive, sample(baseline=LimitsPatch(3, 64, 0, 256)))) == 1


def test_an_engine_is_told_once_when_first_tokens_are_due() -> None:
    due = SPEC.model_copy(update={"ttft_target_milliseconds": 400, "interactive_ttft_target_milliseconds": 1500})
    started = replace(LIMITS, ttft_target_ms=0, interactive_ttft_target_ms=0)
    (call,) = calls(due, sample(effective=started, baseline=started))
    assert (call.limits.ttft_target_ms, call.limits.interactive_ttft_target_ms, call.lease_s) == (400, 1500, 0)
    assert calls(due, sample(effective=call.limits, baseline=call.limits)) == []
    assert calls(due, sample()) == [], "an engine that does not know these targets"


def test_an_engine_that_started_with_tuned_limits_learns_the_spec_s_and_is_lent_the_tuned_ones_again_at_once() -> None:
    tuned = SPEC.model_copy(update={"max_num_seqs": 9})
    started = sample(effective=replace(LIMITS, max_num_seqs=9), baseline=replace(LIMITS, max_num_seqs=9), revision=3)
    first, second = tuning._calls("p", started, tuning._goal(Limits(tuned, SPEC, None, "")), 30)
    assert (first.limits.max_num_seqs, first.lease_s, first.expected_revision) == (4, 0, 3)
    assert (second.limits.max_num_seqs, second.lease_s, second.expected_revision) == (9, 30, 4)
