"""Whether one address has several engines behind it, as the address of a ClusterIP Service has.

gRPC keeps one connection to an address, and a Service balances connections, not calls. So all requests of a gateway that is
pointed at one go to a single engine until that connection ends. Nothing in an address tells; but a second connection to it
meets another engine sooner or later, which has another boot id.
"""

from headway_rpc.client import EngineClient, EngineError


async def other_engine_behind(client: EngineClient, timeout_s: float) -> bool:
    """Whether a new connection met another engine than the one of `client`, which was the same before and after."""
    try:
        before = await client.loads(timeout_s)
        async with EngineClient(client.address) as second:
            there = await second.loads(timeout_s)
        after = await client.loads(timeout_s)
    except EngineError:  # it restarts, or is busy: another time
        return False
    return bool(there.boot_id) and before.boot_id == after.boot_id != there.boot_id
