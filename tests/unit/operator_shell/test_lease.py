"""Leader election in virtual time: never two, never none for long."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fake_kube import FakeKube, Request
from virtual_time import run_virtual

from headway_operator.shell.kube import Failure, KubeError, Ref
from headway_operator.shell.leader import first_of
from headway_operator.shell.lease import Lease, LeaseTiming

REF = Ref("Lease", "headway", "headway-operator")
TIMING = LeaseTiming(duration_s=15.0, renew_deadline_s=10.0, retry_s=2.0)


def lease(kube: FakeKube, identity: str) -> Lease:
    return Lease(kube, REF, identity, TIMING)


def holder(kube: FakeKube) -> str:
    return str(kube.objects[REF]["spec"]["holderIdentity"])


async def seconds(work: Awaitable[object]) -> float:
    clock = asyncio.get_running_loop().time
    began_s = clock()
    await work
    return clock() - began_s


def test_the_first_replica_leads_at_once_and_creates_the_lease() -> None:
    kube = FakeKube()

    async def scene() -> float:
        return await seconds(lease(kube, "a").acquire())

    assert run_virtual(scene()) == 0.0
    assert holder(kube) == "a"


def test_a_second_replica_waits_while_the_first_renews() -> None:
    async def scene() -> bool:
        kube = FakeKube()
        first, second = lease(kube, "a"), lease(kube, "b")
        await first.acquire()
        holding = asyncio.ensure_future(first.hold())
        waiting = asyncio.ensure_future(second.acquire())
        await asyncio.sleep(300.0)
        both = holding.done() or waiting.done()
        for task in (holding, waiting):
            task.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)
        return both

    assert run_virtual(scene()) is False


def test_a_killed_leader_is_replaced_within_twenty_seconds() -> None:
    async def scene() -> float:
        kube = FakeKube()
        await lease(kube, "a").acquire()
        return await seconds(lease(kube, "b").acquire())

    assert 15.0 <= run_virtual(scene()) < 20.0


def test_the_holder_s_own_duration_counts_where_versions_disagree() -> None:
    async def scene() -> float:
        kube = FakeKube()
        longer = LeaseTiming(duration_s=60.0, renew_deadline_s=40.0, retry_s=2.0)
        await Lease(kube, REF, "a", longer).acquire()
        return await seconds(lease(kube, "b").acquire())

    assert 60.0 <= run_virtual(scene()) < 65.0


def test_a_released_lease_is_taken_at_the_next_try() -> None:
    async def scene() -> float:
        kube = FakeKube()
        first, second = lease(kube, "a"), lease(kube, "b")
        await first.acquire()
        waiting = asyncio.ensure_future(seconds(second.acquire()))
        await asyncio.sleep(1.0)
        await first.release()
        return await waiting

    assert run_virtual(scene()) < 3.5


def test_of_two_that_try_at_once_one_wins() -> None:
    async def scene() -> int:
        kube = FakeKube()
        jobs = [asyncio.ensure_future(lease(kube, name).acquire()) for name in "ab"]
        await asyncio.sleep(10.0)
        won = sum(job.done() for job in jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        return won

    assert run_virtual(scene()) == 1


def test_a_leader_cut_off_from_the_api_stops_before_another_can_begin() -> None:
    async def scene() -> tuple[float, float]:
        kube = FakeKube()
        first, second = lease(kube, "a"), lease(kube, "b")
        await first.acquire()

        def outage(request: Request) -> None:
            raise KubeError(Failure.RETRYABLE, "no answer")

        # The first replica's own way to the same API is cut.
        first._kube = cut = FakeKube()
        cut.before = outage
        return await asyncio.gather(seconds(first.hold()), seconds(second.acquire()))

    lost_s, taken_s = run_virtual(scene())
    assert lost_s <= 12.0
    assert lost_s < taken_s


def test_a_request_that_hangs_does_not_outlive_the_renew_deadline() -> None:
    class Hanging(FakeKube):
        hang = False

        async def get(self, ref: Ref):  # type: ignore[no-untyped-def]  # as in the base class
            if self.hang:
                await asyncio.sleep(1e6)
            return await super().get(ref)

    async def scene() -> float:
        kube = Hanging()
        first = lease(kube, "a")
        await first.acquire()
        kube.hang = True
        return await seconds(first.hold())

    assert run_virtual(scene()) == pytest.approx(10.0)


def test_a_lease_taken_by_another_is_lost_at_the_next_renewal() -> None:
    async def scene() -> float:
        kube = FakeKube()
        first = lease(kube, "a")
        await first.acquire()
        kube.edit(REF, lambda stored: stored["spec"].update(holderIdentity="b"))
        return await seconds(first.hold())

    assert run_virtual(scene()) == pytest.approx(2.0)


def test_releasing_does_not_touch_a_lease_of_another() -> None:
    async def scene() -> str:
        kube = FakeKube()
        await lease(kube, "b").acquire()
        await lease(kube, "a").release()
        return holder(kube)

    assert run_virtual(scene()) == "b"


def test_transitions_count_leaders_not_renewals() -> None:
    async def scene() -> int:
        kube = FakeKube()
        first = lease(kube, "a")
        await first.acquire()
        await first_of(first.hold(), asyncio.sleep(20.0))
        await first.release()
        await lease(kube, "b").acquire()
        return int(kube.objects[REF]["spec"]["leaseTransitions"])

    assert run_virtual(scene()) == 2


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_job_to_end_is_named_and_the_others_are_cancelled(winner: int) -> None:
    cancelled: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            cancelled.append("endless")
            raise

    jobs: list[Callable[[], Awaitable[object]]] = [endless, endless]
    jobs[winner] = lambda: asyncio.sleep(1.0)

    async def scene() -> int:
        return await first_of(*(job() for job in jobs))

    assert run_virtual(scene()) == winner
    assert cancelled == ["endless"]


def test_a_job_that_breaks_is_not_taken_for_an_end() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_virtual(first_of(broken(), asyncio.sleep(5.0)))
