"""The client of the engines, against real gRPC on loopback."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from fake_control import FakeEngineControl, stats
from shell_harness import KEY

from headway_operator.core.observed import PodView
from headway_operator.core.plan import LimitsPatch
from headway_operator.shell.engines import EngineError, Engines
from headway_operator.shell.kube import FleetKey

POD = PodView(
    name="demo-abc123-0",
    uid="uid-0",
    labels={},
    annotations={},
    phase="Running",
    ready=True,
    ip="127.0.0.1",
    node="n1",
    created=datetime(2026, 1, 1, tzinfo=UTC),
    deleting=False,
)


@pytest.fixture
def engine() -> FakeEngineControl:
    return FakeEngineControl()


@pytest_asyncio.fixture
async def engines(engine: FakeEngineControl) -> AsyncIterator[Engines]:
    server, port = await engine.serve("127.0.0.1:0")
    client = Engines(port, timeout_s=60.0)
    yield client
    await client.close()
    await server.stop(None)


async def test_a_running_pod_is_sampled(engines: Engines) -> None:
    engines.track(KEY, [POD], 60.0)
    await engines.poll()
    (sample,) = engines.samples(KEY)[POD.name]
    assert (sample.boot_id, sample.ttft, sample.kv_usage) == ("boot-1", (0, 3, 1), 0.25)
    assert (sample.requests_finished, sample.requests_rejected) == (3, 5)
    assert sample.effective == LimitsPatch(8, 256, 0, 64)


async def test_a_pod_without_an_address_is_not_called(engines: Engines, engine: FakeEngineControl) -> None:
    engines.track(KEY, [replace(POD, ip=""), replace(POD, uid="uid-1", phase="Pending")], 60.0)
    assert await engines.poll() == frozenset()
    assert engine.asked == 0
    assert engines.samples(KEY) == {}


async def test_a_pod_that_got_another_address_is_called_there(engines: Engines) -> None:
    engines.track(KEY, [replace(POD, ip="127.0.0.9")], 60.0)
    engines.track(KEY, [POD], 60.0)
    await engines.poll()
    assert len(engines.samples(KEY)[POD.name]) == 1


async def test_a_silent_engine_delays_nobody_and_leaves_no_sample(engine: FakeEngineControl) -> None:
    engine.hang = True
    server, port = await engine.serve("127.0.0.1:0")
    engines = Engines(port, timeout_s=0.5)
    unreachable = replace(POD, name="demo-abc123-1", uid="uid-1", ip="127.0.0.9")
    engines.track(KEY, [POD, unreachable], 60.0)
    assert await engines.poll() == frozenset()
    assert engines.samples(KEY) == {}
    assert engines.oldest_sample_age_s(KEY, 0.0) is None
    await engines.close()
    await server.stop(None)


async def test_only_news_asks_for_a_pass(engines: Engines, engine: FakeEngineControl) -> None:
    engines.track(KEY, [POD], 60.0)
    assert await engines.poll() == {KEY}  # a first sample is news
    assert await engines.poll() == frozenset()
    engine.answer = stats(received=1)
    assert await engines.poll() == {KEY}
    engine.answer = stats(received=1, running=1)
    assert await engines.poll() == {KEY}
    assert await engines.poll() == {KEY}  # running is reason enough


async def test_a_pod_replaced_under_its_name_begins_a_new_history(engines: Engines) -> None:
    engines.track(KEY, [POD], 60.0)
    await engines.poll()
    await engines.poll()
    engines.track(KEY, [replace(POD, uid="uid-new")], 60.0)
    assert engines.samples(KEY) == {}
    await engines.poll()
    assert len(engines.samples(KEY)[POD.name]) == 1


async def test_fleets_do_not_see_each_others_engines(engines: Engines) -> None:
    other = FleetKey("apps", "other")
    engines.track(KEY, [POD], 60.0)
    engines.track(other, [replace(POD, name="other-abc123-0", uid="uid-9")], 60.0)
    await engines.poll()
    assert set(engines.samples(KEY)) == {POD.name}
    engines.track(other, [], 60.0)
    assert engines.samples(other) == {}
    assert set(engines.samples(KEY)) == {POD.name}


async def test_new_limits_show_in_the_latest_sample_at_once(engines: Engines, engine: FakeEngineControl) -> None:
    engines.track(KEY, [POD], 60.0)
    await engines.poll()
    await engines.set_limits(POD, LimitsPatch(max_num_seqs=4), lease_s=60, expected_revision=1)
    sample = engines.samples(KEY)[POD.name][-1]
    assert (sample.revision, sample.effective.max_num_seqs, sample.baseline.max_num_seqs) == (2, 4, 8)
    assert sample.lease_remaining_s == 60.0
    assert not engine.updates[0].limits.HasField("batch_wait_ms")


async def test_a_stale_revision_is_an_engine_error(engines: Engines) -> None:
    engines.track(KEY, [POD], 60.0)
    with pytest.raises(EngineError, match="ABORTED: the revision is 1"):
        await engines.set_limits(POD, LimitsPatch(max_num_seqs=4), lease_s=0, expected_revision=7)


async def test_a_drain_starts_and_goes_on_without_us(engines: Engines, engine: FakeEngineControl) -> None:
    engines.track(KEY, [POD], 60.0)
    await engines.start_drain(POD, 300)
    assert engine.drains == [300]
    await engines.poll()
    assert engines.samples(KEY)[POD.name][-1].draining


async def test_an_untracked_pod_cannot_be_told_anything(engines: Engines) -> None:
    with pytest.raises(EngineError, match="NO_ADDRESS"):
        await engines.start_drain(POD, 300)
