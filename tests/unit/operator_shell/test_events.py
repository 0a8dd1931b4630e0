"""Events are few: repeats are dropped, floods are cut."""

import pytest
from fake_kube import FakeKube, Request, no_fault
from shell_harness import KEY

from headway_operator.core.plan import Manifest
from headway_operator.shell.events import (
    BURST,
    KEPT_FOR_WARNINGS,
    KEPT_FROM_FREQUENT,
    REFILL_S,
    REPEAT_S,
    EventRecorder,
)
from headway_operator.shell.kube import Failure, KubeError


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(kube: FakeKube, clock: Clock) -> EventRecorder:
    return EventRecorder(kube, "op-1", clock)


async def test_an_event_names_its_object_and_its_reporter(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest
) -> None:
    await recorder.emit(KEY.ref, fleet, "Normal", "ScaledOut", "2 to 3 replicas")
    event = kube.objects[kube.of_kind("Event")[0]]
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "ScaledOut", "2 to 3 replicas")
    assert event["regarding"]["uid"] == "uid-demo"
    assert event["reportingInstance"] == "op-1"


async def test_the_same_sentence_is_posted_once_in_ten_minutes(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest, clock: Clock
) -> None:
    for now_s in (0.0, 1.0, REPEAT_S - 1.0, REPEAT_S + 1.0):
        clock.now_s = now_s
        await recorder.emit(KEY.ref, fleet, "Warning", "Failed", "no GPU")
    assert sum(request.verb == "create" for request in kube.writes) == 2


async def test_a_flood_is_cut_and_the_bucket_refills(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest, clock: Clock
) -> None:
    for number in range(100):
        await recorder.emit(KEY.ref, fleet, "Warning", "Changed", f"change {number}")
    assert len(kube.writes) == BURST
    clock.now_s = REFILL_S
    for number in range(100, 110):
        await recorder.emit(KEY.ref, fleet, "Warning", "Changed", f"change {number}")
    assert len(kube.writes) == BURST + 1


async def test_a_fleet_that_is_retuned_all_day_has_room_for_news_and_for_warnings(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest
) -> None:
    for number in range(100):
        await recorder.emit(KEY.ref, fleet, "Normal", "LimitsChanged", f"change {number}")
    assert len(kube.writes) == BURST - KEPT_FOR_WARNINGS - KEPT_FROM_FREQUENT
    for number in range(100):
        await recorder.emit(KEY.ref, fleet, "Normal", "ScaledUp", f"{number} replicas")
    assert len(kube.writes) == BURST - KEPT_FOR_WARNINGS
    for number in range(100):
        await recorder.emit(KEY.ref, fleet, "Warning", "Failed", f"trouble {number}")
    assert len(kube.writes) == BURST


async def test_a_sentence_that_was_cut_is_posted_when_it_comes_again(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest, clock: Clock
) -> None:
    for number in range(BURST):
        await recorder.emit(KEY.ref, fleet, "Warning", "Changed", f"change {number}")
    for now_s in (0.0, REFILL_S):
        clock.now_s = now_s
        await recorder.emit(KEY.ref, fleet, "Warning", "Failed", "no GPU")
    notes = [kube.objects[ref]["note"] for ref in kube.of_kind("Event")]
    assert notes.count("no GPU") == 1


async def test_a_sentence_that_the_api_refused_is_posted_when_it_comes_again(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest
) -> None:
    def forbidden(request: Request) -> None:
        raise KubeError(Failure.PERMANENT, f"{request.verb} is forbidden")

    for kube.before in (forbidden, no_fault):
        await recorder.emit(KEY.ref, fleet, "Warning", "Failed", "no GPU")
    assert len(kube.of_kind("Event")) == 1


async def test_a_long_message_is_cut_at_a_whole_character(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest
) -> None:
    await recorder.emit(KEY.ref, fleet, "Normal", "Changed", "x" + "é" * 1000)
    note = kube.objects[kube.of_kind("Event")[0]]["note"]
    assert len(note.encode()) == 1023


async def test_two_replicas_that_say_the_same_post_it_once_and_nobody_is_warned(
    recorder: EventRecorder, kube: FakeKube, fleet: Manifest, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    other = EventRecorder(kube, "op-2", clock)
    for one in (recorder, other, other):
        await one.emit(KEY.ref, fleet, "Warning", "Failed", "no GPU")
    assert len(kube.of_kind("Event")) == 1
    assert len(kube.writes) == 2, "the other one remembers that it is said"
    assert caplog.records == []
