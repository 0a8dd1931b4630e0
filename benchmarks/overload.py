"""More than an engine serves, in both orders: `python benchmarks/overload.py FOLDER SHAPE --rates R [R ...]`.

Starts an engine as `gpu_online.py` does. At each rate it gets the same open-loop traffic several times, in turns first come, first
served and with a TTFT target, after which late requests let those go first who can still be in time; the target is changed live,
as the operator does. Prints a line a run and saves all.

    good    share of the requests with TTFT inside the target and TPOT <= 50 ms
"""

import asyncio
from datetime import UTC, datetime

import gpu_online
import served

from headway_engine.bench import report
from headway_rpc import EngineControlStub, pb
from headway_rpc.client import open_channel


def main() -> None:
    """Measure and save."""
    parser = gpu_online.parser(__doc__ or "")
    parser.add_argument(
        "--ttft-target", type=int, default=500, metavar="MS", help="of the second order, and of a good request (500)"
    )
    parser.add_argument("--turns", type=int, default=2, metavar="N", help="runs of each order at each rate (2)")
    options = parser.parse_args()
    engine = served.started(options.shape, options.device, gpu_online.flags(options))
    figures: list[report.Figure] = []
    try:
        asyncio.run(served.ready(f"127.0.0.1:{options.port}", engine))
        for rate in options.rates:
            for turn in range(options.turns):
                for target_ms in (0, options.ttft_target):
                    asyncio.run(order(options.control_port, target_ms))
                    found = gpu_online.online(rate, options, "--slo-ttft-ms", str(options.ttft_target))
                    name = (
                        f"{options.shape} overload r={rate:g} {'late last' if target_ms else 'first come'} turn {turn}"
                    )
                    figures += gpu_online.told(name, found)
    finally:
        served.stop(engine)
    names = ("shape", "mux", "duration", "max_seqs", "max_tokens", "rates", "turns", "ttft_target")
    settings = {"clients": gpu_online.CLIENTS, **{name: getattr(options, name) for name in names}}
    result = report.Report(f"overload-{options.shape}", settings, tuple(figures))
    now = datetime.now(UTC)
    report.save(report.as_lines(result, report.environment(), now), result, now, options.folder)


async def order(port: int, target_ms: int) -> None:
    """Set the TTFT target of the engine; 0: first come, first served."""
    async with open_channel(f"127.0.0.1:{port}") as channel:
        limits = pb.Limits(ttft_target_ms=target_ms)
        await EngineControlStub(channel).UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=limits))


if __name__ == "__main__":
    main()
