from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from headway_operator.api.conditions import (
    MEANINGS,
    ConditionStatus,
    ConditionType,
    Finding,
    Reason,
    find,
    set_condition,
    set_conditions,
)
from headway_operator.api.v1alpha1 import Condition

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
STARTING = Finding(ConditionType.READY, ConditionStatus.FALSE, Reason.STARTING, "1 of 2 engines load")
READY = Finding(ConditionType.READY, ConditionStatus.TRUE, Reason.ALL_REPLICAS)


def ready(conditions: tuple[Condition, ...]) -> Condition:
    found = find(conditions, ConditionType.READY)
    assert found is not None
    return found


def test_transition_time_moves_when_the_status_changes() -> None:
    before = set_condition((), STARTING, 1, NOON)
    assert ready(set_condition(before, READY, 1, LATER)).last_transition_time == LATER


def test_transition_time_stays_when_only_reason_message_or_generation_change() -> None:
    before = set_condition((), STARTING, 1, NOON)
    crashed = Finding(ConditionType.READY, ConditionStatus.FALSE, Reason.ENGINE_CRASHED, "exit code 1")
    after = ready(set_condition(before, crashed, 2, LATER))
    assert after.last_transition_time == NOON
    assert (after.reason, after.message, after.observed_generation) == ("EngineCrashed", "exit code 1", 2)


def test_the_same_finding_later_changes_nothing() -> None:
    before = set_condition((), STARTING, 1, NOON)
    assert set_condition(before, STARTING, 1, LATER) == before


def test_conditions_of_other_managers_are_left_alone() -> None:
    foreign = Condition(
        type="example.com/Audited", status="True", last_transition_time=NOON, reason="Seen", observed_generation=7
    )
    assert foreign in set_condition((foreign,), READY, 8, LATER)


def test_unset_condition_is_not_found() -> None:
    assert find(set_condition((), READY, 1, NOON), ConditionType.PAUSED) is None


def test_every_type_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ConditionType)


findings = st.builds(
    Finding,
    st.sampled_from(ConditionType),
    st.sampled_from(ConditionStatus),
    st.sampled_from(Reason),
    st.text(max_size=8),
)


@given(st.lists(findings, max_size=20))
def test_one_condition_per_type_and_the_last_finding_wins(passes: list[Finding]) -> None:
    conditions = set_conditions((), passes, 3, NOON)
    assert [condition.type for condition in conditions] == sorted({finding.type.value for finding in passes})
    last = {finding.type.value: finding for finding in passes}
    assert all(condition.reason == last[condition.type].reason for condition in conditions)
