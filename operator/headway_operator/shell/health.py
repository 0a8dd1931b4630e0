"""/healthz, /readyz and /metrics, served by a thread of their own: they answer even when the event loop is stuck.

The event loop writes its heartbeat and the age of its most neglected fleet into `Health`; the server only reads them.
/healthz fails when the heartbeat stopped or a fleet that is due was left alone for too long, which is when a restart helps.
It does not fail while the API server is away: passes then fail but happen. A standby has no fleets and is healthy.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from headway_operator.shell.metrics import Metrics

log = logging.getLogger(__name__)

BEAT_LIMIT_S = 20.0  # a loop that was not free for so long is stuck


@dataclass(slots=True)
class Health:
    """What the event loop tells about itself. Single writes of floats and bools: no lock is needed.

    Attributes:
        stall_s: a fleet may be overdue for so long.
        beat_s: when the loop was last seen alive, by `time.monotonic`.
        overdue_s: how long the most neglected fleet has been due.
        ready: the API server was reached.
    """

    stall_s: float
    beat_s: float = 0.0
    overdue_s: float = 0.0
    ready: bool = False

    def beat(self, overdue_s: float) -> None:
        """The loop is alive."""
        self.beat_s, self.overdue_s = time.monotonic(), overdue_s

    def reached(self, status: int) -> None:
        """A request to the API server was answered with this HTTP status; 0 is no answer."""
        self.ready = self.ready or status > 0

    def problem(self) -> str:
        """Why a restart would help, "" when all is well."""
        silent_s = time.monotonic() - self.beat_s
        if silent_s > BEAT_LIMIT_S:
            return f"the event loop has been stuck for {silent_s:.0f} s"
        if self.overdue_s > self.stall_s:
            return f"a fleet was not reconciled for {self.overdue_s:.0f} s"
        return ""


class HealthServer:
    """Serves the three pages.

    Args:
        health: what to tell.
        metrics: what to expose.
        port: 0 takes a free one.
        host: the address to listen on.
    """

    def __init__(self, health: Health, metrics: Metrics, port: int, host: str = "") -> None:
        health.beat(0.0)
        pages: dict[str, Callable[[], tuple[HTTPStatus, bytes]]] = {
            "/healthz": lambda: _page(health.problem()),
            "/readyz": lambda: _page("" if health.ready else "the API server was not reached yet"),
            "/metrics": lambda: (HTTPStatus.OK, metrics.expose()),
        }
        self._server = _Server((host, port), _handler(pages))
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as the base class has it
        error = sys.exception()
        # A scraper that hangs up and a port scan are everyday; only what is our fault is worth a line.
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.error("%s was answered with nothing: %r", client_address, error)


def _page(problem: str) -> tuple[HTTPStatus, bytes]:
    return (HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK), (problem or "ok").encode()


def _handler(pages: dict[str, Callable[[], tuple[HTTPStatus, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds a client may take to send its request

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, body = page() if page else (HTTPStatus.NOT_FOUND, b"not found")
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Probes each few seconds are not worth a line."""

    return Handler
