"""A replica goes away behind the gateway: no request that has no token yet is lost with it."""

import asyncio
from collections.abc import AsyncGenerator

from fake_async_engine import FakeAsyncEngine
from loopback import served
from openai_front import front

from headway_gateway.engines import Engines
from headway_rpc import pb
from headway_rpc.client import Message


async def test_a_draining_engine_loses_no_request() -> None:
    leaving, staying = FakeAsyncEngine(auto=True), FakeAsyncEngine(auto=True)
    leaving.begin_drain()
    async with front(leaving, staying) as (client, _):
        calls = [client.completions.create(model="fake", prompt="x", max_tokens=4) for _ in range(20)]
        assert [answer.choices[0].finish_reason for answer in await asyncio.gather(*calls)] == ["length"] * 20
        assert (len(leaving.submitted), len(staying.submitted)) == (0, 20)


async def test_the_last_known_engine_drains_and_its_successor_gets_the_requests_although_no_round_has_seen_it() -> None:
    old, new = FakeAsyncEngine(), FakeAsyncEngine(auto=True)
    async with served(old) as old_address, served(new) as new_address:
        behind, looks = {old_address}, 0

        async def resolve(_: str) -> frozenset[str]:
            nonlocal looks
            looks += 1
            return frozenset(behind)

        async with Engines(["fleet:1"], resolve) as pool:
            pool._watcher.cancel()  # only a request makes it look again
            behind = {old_address, new_address}
            old.begin_drain()
            one_token = pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=1))
            ends = await asyncio.gather(*(_last(pool.generate(one_token, 60.0)) for _ in range(20)))
            assert [end.finish_reason for end in ends] == [pb.LENGTH] * 20
            assert len(new.submitted) == 20
            assert looks <= 3, "those that wait share a look"


async def test_a_request_that_a_drain_cuts_off_before_its_first_token_is_begun_anew_elsewhere() -> None:
    leaving, staying = FakeAsyncEngine(), FakeAsyncEngine()
    async with front(leaving, staying) as (client, _):
        calls = [
            asyncio.create_task(client.completions.create(model="fake", prompt="x", max_tokens=1)) for _ in range(2)
        ]
        await asyncio.gather(*(engine.until(lambda engine=engine: engine.open) for engine in (leaving, staying)))
        leaving.begin_drain()
        for name in list(leaving.open):
            leaving.abort(name)
        await staying.until(lambda: len(staying.open) == 2)
        staying.step()
        assert [answer.choices[0].text for answer in await asyncio.gather(*calls)] == ["t1 ", "t1 "]


async def _last(answer: AsyncGenerator[Message]) -> pb.GenerateComplete:
    async for message in answer:
        last = message
    assert isinstance(last, pb.GenerateComplete)
    return last
