"""The gateway's command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

MOST_PORT = 65_535
_BOUNDS = {
    "port": (0, MOST_PORT),
    "request_timeout_seconds": (1, 86_400),
    "drain_delay_seconds": (0, 86_400),
    "drain_timeout_seconds": (0, 86_400),
    "max_body_bytes": (1, 1 << 30),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One gateway process.

    Attributes:
        engines: `host:port`; every address of the host is an engine.
        host: address to listen on.
        port: of HTTP; 0 is any free one.
        request_timeout_s: deadline of every answer.
        drain_delay_s: after SIGTERM, how long new connections are taken.
        drain_timeout_s: after that, how long answers in flight may go on.
        max_body_bytes: longest request body.
    """

    engines: tuple[str, ...]
    host: str
    port: int
    request_timeout_s: float
    drain_delay_s: float
    drain_timeout_s: float
    max_body_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--engine",
        action="append",
        required=True,
        metavar="HOST:PORT",
        help="data port of engines: all addresses of HOST, so a headless Service stands for its pods; may be repeated",
    )
    parser.add_argument("--host", default="0.0.0.0", metavar="TEXT", help="address to listen on (default: %(default)s)")  # noqa: S104 - a pod serves its cluster
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="HTTP port, 0 = any free one (default: 8000)"
    )
    parser.add_argument(
        "--request-timeout-seconds", type=float, default=300.0, metavar="S", help="deadline of an answer (default: 300)"
    )
    parser.add_argument(
        "--drain-delay-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="after SIGTERM: how long new connections are taken, as proxies send some until they have noticed (default: 0)",
    )
    parser.add_argument(
        "--drain-timeout-seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="after that: how long answers in flight may go on (default: 300)",
    )
    parser.add_argument(
        "--max-body-bytes", type=int, default=1 << 20, metavar="N", help="longest request body (default: 1048576)"
    )


def parse(argv: Sequence[str] | None) -> Settings:
    """Read the command line; argparse ends the process with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="headway gateway serve", description="OpenAI's API in front of engines.")
    add_arguments(parser)
    options = parser.parse_args(argv)
    for address in options.engine:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) <= MOST_PORT):
            parser.error(f"--engine must be HOST:PORT with a port of 1 to {MOST_PORT}, got {address!r}")
    for name, (least, most) in _BOUNDS.items():
        value = getattr(options, name)
        if not least <= value <= most:
            parser.error(f"--{name.replace('_', '-')} must be {least} to {most}, got {value}")
    return Settings(
        engines=tuple(options.engine),
        host=options.host,
        port=options.port,
        request_timeout_s=options.request_timeout_seconds,
        drain_delay_s=options.drain_delay_seconds,
        drain_timeout_s=options.drain_timeout_seconds,
        max_body_bytes=options.max_body_bytes,
    )
