import pytest

from headway_engine.core.limits import Bounds, Envelope, Limits, LimitsPatch, LimitsState
from headway_engine.core.request import Rejected, StatusCode

ENVELOPE = Envelope(Bounds(1, 64), Bounds(1, 2048), Bounds(0, 1000), Bounds(1, 1024), Bounds(0, 1024))
BASE = Limits(16, 512, 0, 256)
START = LimitsState(ENVELOPE, BASE, BASE)


def accepted(state: LimitsState, patch: LimitsPatch, lease_s: int, now: float) -> LimitsState:
    result = state.update(patch, lease_s, state.revision, now)
    assert isinstance(result, LimitsState), result
    return result


def test_a_lease_changes_the_effective_limits_and_keeps_the_baseline() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    assert (state.effective, state.baseline) == (Limits(8, 512, 0, 256), BASE)
    assert (state.revision, state.view(10.0).lease_remaining_s) == (2, 20.0)


def test_a_lease_that_ends_falls_back_to_the_baseline_and_bumps_the_revision() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    assert state.expire(29.9) is state
    view = state.view(30.0)
    assert (view.effective, view.revision, view.lease_remaining_s) == (BASE, 3, 0.0)


def test_renewing_a_lease_moves_its_end_and_not_the_revision() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    renewed = accepted(state, LimitsPatch(max_num_seqs=8), 30, 20.0)
    assert (renewed.revision, renewed.view(20.0).lease_remaining_s) == (2, 30.0)


def test_an_update_without_a_lease_becomes_the_baseline_and_ends_the_lease() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    state = accepted(state, LimitsPatch(batch_wait_ms=5), 0, 1.0)
    assert state.effective == state.baseline == Limits(16, 512, 5, 256)
    assert state.lease_ends_s is None


def test_two_leased_updates_add_up() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    state = accepted(state, LimitsPatch(batch_wait_ms=5), 30, 1.0)
    assert state.effective == Limits(8, 512, 5, 256)


def test_another_revision_than_expected_is_aborted() -> None:
    result = START.update(LimitsPatch(), 0, 7, 0.0)
    assert result == Rejected(StatusCode.ABORTED, "expected_revision is 7, the current revision is 1")


def test_an_expired_lease_counts_before_the_expected_revision_is_compared() -> None:
    state = accepted(START, LimitsPatch(max_num_seqs=8), 30, 0.0)
    assert isinstance(state.update(LimitsPatch(max_num_seqs=9), 30, state.revision, 31.0), Rejected)
    assert isinstance(state.update(LimitsPatch(max_num_seqs=9), 30, 3, 31.0), LimitsState)


@pytest.mark.parametrize(
    ("patch", "lease_s", "message"),
    [
        (LimitsPatch(max_num_seqs=65), 0, "limits.max_num_seqs is 65, the envelope allows 1 to 64"),
        (LimitsPatch(max_num_seqs=0), 0, "limits.max_num_seqs is 0, the envelope allows 1 to 64"),
        (
            LimitsPatch(max_num_batched_tokens=4096),
            9,
            "limits.max_num_batched_tokens is 4096, the envelope allows 1 to 2048",
        ),
        (LimitsPatch(batch_wait_ms=1001), 0, "limits.batch_wait_ms is 1001, the envelope allows 0 to 1000"),
        (LimitsPatch(max_queued_requests=0), 0, "limits.max_queued_requests is 0, the envelope allows 1 to 1024"),
        (
            LimitsPatch(max_num_batched_tokens=15),
            0,
            "limits.max_num_batched_tokens is 15, it must be at least limits.max_num_seqs (16)",
        ),
        (LimitsPatch(), -1, "lease_seconds is -1, allowed are 0 to 86400"),
    ],
)
def test_a_limit_out_of_bounds_is_refused_naming_field_and_bound(
    patch: LimitsPatch, lease_s: int, message: str
) -> None:
    assert START.update(patch, lease_s, None, 0.0) == Rejected(StatusCode.INVALID_ARGUMENT, message)
