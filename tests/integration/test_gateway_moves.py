"""Batch work that waits in one engine goes to another one that has room: the gateway before real engines on loopback."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import aiohttp
import grpc.aio
import openai
import pytest
from aiohttp.test_utils import TestServer
from engine_processes import engine as engine_process
from fake_engine_client import eventually, nothing_left
from fake_engine_model import EOS, ScriptedExecutor, config, loaded
from loopback import served

from headway_engine.core.batch import Batch
from headway_engine.core.limits import LimitsPatch
from headway_engine.core.metrics import ClassSnapshot
from headway_engine.core.request import Priority
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server.convert_control import to_stats
from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings
from headway_operator.core.deferred import take
from headway_operator.core.intake import Reports
from headway_operator.core.memory import Arrived
from headway_operator.shell.samples import decode
from headway_planner.deferred import Deferred
from headway_rpc import EngineControlStub, pb


class OpenEnded:
    """Short steps, and answers that go on until they are let go."""

    num_blocks, block_size = 256, 1024

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def begin(self) -> None:
        pass

    def run(self, batch: Batch) -> tuple[int, ...]:
        token = EOS if self.let_go.wait(0.002) else 65
        return tuple(token for chunk in batch.chunks if chunk.sample)


@dataclass
class Replica:
    """A real engine around a scripted model."""

    executor: OpenEnded
    engine: AsyncEngine
    address: str

    @property
    def counts(self) -> ClassSnapshot:
        return self.engine.stats().classes[Priority.BATCH]

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        loads = self.engine.loads()
        return loads.num_running, loads.num_waiting


@dataclass
class Fleet:
    """What a name stands for, and gateways that look it up."""

    stack: AsyncExitStack
    replicas: list[Replica] = field(default_factory=list)
    behind: set[str] = field(default_factory=set)

    async def replica(self, slots: int = 2) -> Replica:
        executor = OpenEnded()
        model = replace(loaded(ScriptedExecutor(), max_model_len=100_000), executor=executor)
        engine = AsyncEngine.embed(config(max_num_seqs=slots), model)
        found = Replica(executor, engine, await self.stack.enter_async_context(served(engine)))
        self.replicas.append(found)
        self.behind.add(found.address)
        return found

    async def gateway(self) -> "Door":
        async def resolve(_: str) -> frozenset[str]:
            return frozenset(self.behind)

        settings = Settings(("fleet:50051",), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16)
        pool = await self.stack.enter_async_context(Engines(settings.engines, resolve))
        gateway = Gateway(settings, pool)
        server = TestServer(gateway.application(), handler_cancellation=True)
        await self.stack.enter_async_context(server)
        url = str(server.make_url("/"))
        client = openai.AsyncOpenAI(base_url=f"{url}v1", api_key="none", max_retries=0)
        return Door(gateway, pool, await self.stack.enter_async_context(client), url)

    def deferred(self) -> Deferred:
        """The work with a deadline as an operator takes it in that has seen the first replica before."""
        samples = {one.address: decode(to_stats(one.engine.stats()), 0.0) for one in self.replicas}
        found, _ = take(Reports(len(samples), samples), Arrived())
        assert found is not None
        return found


@dataclass
class Door:
    gateway: Gateway
    pool: Engines
    client: openai.AsyncOpenAI
    url: str

    def ask(self, count: int, kind: str = "batch") -> "list[asyncio.Task[str]]":
        return [asyncio.create_task(self._one(kind)) for _ in range(count)]

    async def _one(self, kind: str) -> str:
        answer = await self.client.completions.create(
            model="", prompt=[7], max_tokens=90_000, extra_headers={"x-headway-class": kind}
        )
        return answer.choices[0].finish_reason

    async def metric(self, name: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet(stack)


async def heap(fleet: Fleet, count: int = 6, kind: str = "batch") -> "tuple[Replica, Door, list[asyncio.Task[str]]]":
    """One replica with two slots, and more requests than it can begin."""
    old = await fleet.replica()
    door = await fleet.gateway()
    asked = door.ask(count, kind)
    await eventually(lambda: old.load == (2, count - 2))
    return old, door, asked


async def test_a_replica_that_comes_gets_what_waits_in_the_others_and_goes_on_getting_it(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    new = await fleet.replica()
    await door.pool.refresh()
    await eventually(lambda: (old.load, new.load) == ((2, 2), (2, 0)))
    new.executor.let_go.set()
    # What ends there frees its slots for the others that wait: the old one has made no step yet.
    await eventually(lambda: sum(task.done() for task in asked) == 4)
    assert (old.load, new.load) == ((2, 0), (0, 0))
    old.executor.let_go.set()
    assert await asyncio.gather(*asked) == ["stop"] * 6
    assert await door.metric("headway_gateway_requests_moved_total") == 4
    assert nothing_left(old.engine)
    assert nothing_left(new.engine)


async def test_a_request_that_moves_is_counted_once_and_keeps_its_age(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    before = fleet.deferred()
    new = await fleet.replica()
    await old.engine.update_limits(LimitsPatch(batch_deadline_ms=1), 0, None)
    await new.engine.update_limits(LimitsPatch(batch_deadline_ms=1), 0, None)
    await door.pool.refresh()
    await eventually(lambda: new.load == (2, 0))
    assert (old.counts.admitted, old.counts.moved, old.counts.prompt_tokens_admitted) == (6, -2, 6)
    assert (new.counts.admitted, new.counts.moved, new.counts.prompt_tokens_admitted) == (0, 2, 0)
    after = fleet.deferred()
    assert (after.arrivals, after.waiting + after.running, after.finished) == (6, 6, 0)
    assert (before.arrivals, before.input_tokens) == (after.arrivals, after.input_tokens)
    new.executor.let_go.set()
    old.executor.let_go.set()
    await asyncio.gather(*asked)
    assert [one.engine.stats().requests_received for one in (old, new)] == [6, 0]
    assert sum(one.counts.finished for one in (old, new)) == 6
    assert sum(one.counts.late for one in (old, new)) == 6, "from the first arrival, each once"
    assert sum(one.counts.moved for one in (old, new)) == 0
    assert sum(one.engine.stats().e2e.count for one in (old, new)) == 6


async def test_online_requests_stay_where_they_were_routed(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet, kind="interactive")
    new = await fleet.replica()
    await door.pool.refresh()
    more = door.ask(1, "interactive")
    await eventually(lambda: new.load == (1, 0))
    assert old.load == (2, 4)
    new.executor.let_go.set()
    old.executor.let_go.set()
    assert await asyncio.gather(*asked, *more) == ["stop"] * 7
    assert door.pool.moved == 0


async def test_a_batch_request_goes_at_once_where_it_finds_a_slot(fleet: Fleet) -> None:
    small, large = await fleet.replica(slots=1), await fleet.replica(slots=5)
    door = await fleet.gateway()
    asked = door.ask(6)
    await eventually(lambda: (small.load, large.load) == ((1, 0), (5, 0)))
    for one in (small, large):
        one.executor.let_go.set()
    await asyncio.gather(*asked)
    assert door.pool.moved == 0


async def test_clients_that_go_away_leave_nothing_before_and_after_a_move(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    asked[-1].cancel()
    await eventually(lambda: old.load == (2, 3))
    new = await fleet.replica()
    await door.pool.refresh()
    await eventually(lambda: (old.load, new.load) == ((2, 1), (2, 0)))
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for one in (old, new):
        one.executor.let_go.set()
    await eventually(lambda: nothing_left(old.engine) and nothing_left(new.engine))
    members = door.pool._members.values()
    await eventually(lambda: not any(engine.waiting or engine.in_flight for engine in members))


async def test_a_queue_that_is_full_refuses_naming_its_bound_and_when_to_come_again(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    await old.engine.update_limits(LimitsPatch(max_queued_batch_requests=4), 0, None)
    with pytest.raises(openai.RateLimitError, match=r"limits\.max_queued_batch_requests is 4") as caught:
        await door.ask(1)[0]
    assert int(caught.value.response.headers["Retry-After"]) >= 1
    old.executor.let_go.set()
    await asyncio.gather(*asked)


async def test_a_gateway_that_goes_away_finishes_what_waits(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    door.gateway.begin_drain()
    finished = asyncio.create_task(door.gateway.finished())
    new = await fleet.replica()
    await door.pool.refresh()
    await eventually(lambda: new.load == (2, 0))
    new.executor.let_go.set()
    old.executor.let_go.set()
    assert await asyncio.gather(*asked) == ["stop"] * 6
    await finished


async def test_an_engine_that_drains_hands_over_what_waits_in_it(fleet: Fleet) -> None:
    old, door, asked = await heap(fleet)
    new = await fleet.replica()
    old.engine.begin_drain()
    await door.pool.refresh()
    new.executor.let_go.set()
    await eventually(lambda: sum(task.done() for task in asked) == 4)
    assert old.load == (2, 0)
    old.executor.let_go.set()
    assert await asyncio.gather(*asked) == ["stop"] * 6


async def test_several_gateways_move_their_own_work_and_lose_none_of_it(fleet: Fleet) -> None:
    old, first, asked = await heap(fleet)
    second = await fleet.gateway()
    asked += second.ask(6)
    await eventually(lambda: old.load == (2, 10))
    new = await fleet.replica()
    await asyncio.gather(first.pool.refresh(), second.pool.refresh())
    await eventually(lambda: new.load[0] == 2)
    for one in (old, new):
        one.executor.let_go.set()
    assert await asyncio.gather(*asked) == ["stop"] * 12
    assert old.counts.finished + new.counts.finished == old.counts.admitted + new.counts.admitted == 12
    assert old.counts.moved + new.counts.moved == 0


async def test_a_heap_in_one_engine_process_is_worked_off_by_two() -> None:
    count, flags = 100, ("--capacity-max-num-seqs", "2", "--max-queued-requests", "400")
    async with engine_process("paced", *flags) as old, engine_process("paced", *flags) as new:
        await asyncio.gather(old.log_until("ready"), new.log_until("ready"))
        behind = {old.address}

        async def resolve(_: str) -> frozenset[str]:
            return frozenset(behind)

        wanted = pb.GenerateRequest(text="x", priority=pb.PRIORITY_BATCH)
        async with Engines(["fleet:1"], resolve) as pool:
            asked = [asyncio.create_task(_whole(pool, wanted)) for _ in range(count)]
            # The heap is in the old one when the first of it is done; then the other one comes.
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            behind.add(new.address)
            await pool.refresh()
            assert set(await asyncio.gather(*asked)) == {"a long answer of some 40 tokens, all bytes"}
            moved = pool.moved
        stats = await asyncio.gather(*(_batch(one.ports["control_port"]) for one in (old, new)))
    assert [one.requests_admitted for one in stats] == [count, 0]
    assert [one.requests_moved for one in stats] == [-moved, moved]
    assert sum(one.requests_finished for one in stats) == count
    assert stats[1].requests_finished == moved > count // 10


async def _whole(pool: Engines, wanted: pb.GenerateRequest) -> str:
    messages = [message async for message in pool.generate(wanted, 600.0)]
    return "".join(message.text for message in messages)


async def _batch(control_port: int) -> pb.ClassStats:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{control_port}") as channel:
        stats = await EngineControlStub(channel).GetStats(pb.GetStatsRequest())
    found: Sequence[pb.ClassStats] = [one for one in stats.classes if one.workload_class == pb.PRIORITY_BATCH]
    return found[0]
