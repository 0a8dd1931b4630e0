"""Case `stalled`: what clients that stop reading cost the others.

A server in a process of its own: the real gRPC ports, streams, step loop and scheduler, around an executor whose steps take
a fixed time, so that only the server can make a difference. Beside the measured streams, which are read, come the others:

    reading    read to the end like the measured ones: the same batch, the same tokens
    stalled    their first message is read and nothing after it, until gRPC's flow control holds them

Both in turns; the ratio is between neighbours. The measured window begins when the flow-control windows of stalled streams are
full. Then the others are cancelled, and nothing may be left of them.

Server and clients are in `stalled_streams.py`, which needs all that an engine needs; this module needs nothing, so that the
other cases can be listed and run without it.
"""

import argparse

from headway_engine.bench.report import Report

DESCRIPTION = "tokens/s of streams beside 500 others that are not read, over real gRPC (CPU)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of this case."""
    parser.add_argument("--measured", type=int, default=32, metavar="N", help="streams that are measured (32)")
    parser.add_argument("--others", type=int, default=500, metavar="N", help="streams beside them (500)")
    parser.add_argument("--step", type=float, default=20.0, metavar="MS", help="what a step takes (20)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="measured time of each turn (5)")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="turns of each kind (3)")


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    from headway_engine.bench.stalled_streams import measure  # noqa: PLC0415 - see above

    names = ("measured", "others", "step", "seconds", "repetitions")
    return Report("stalled", {name: getattr(options, name) for name in names}, measure(options))
