"""`/metrics`, `/healthz` and `/readyz` from a thread of their own.

A probe must be answered while the event loop is busy with a long tokenization, so nothing here awaits: health is read
from the engine directly. The server starts before the model loads; until then `/readyz` says 503 `loading`.
"""

import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

log = logging.getLogger("headway.engine.http")

Probe = Callable[[], tuple[bool, str]]


class HttpServer:
    """A small HTTP server; `port` is the bound one."""

    def __init__(self, host: str, port: int, ready: Probe, alive: Probe, metrics: Callable[[], bytes]) -> None:
        self._server = _Server((host, port), _handler(ready, alive, metrics))
        self._thread = threading.Thread(target=self._serve, name="headway-http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is really listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self) -> None:
        # The interval is how long `stop` may wait; requests are answered at once.
        self._server.serve_forever(poll_interval=0.1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as the base class has it
        error = sys.exception()
        # A scraper that hangs up and a port scan are everyday; only what is our fault is worth a line.
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.error("%s was answered with nothing: %r", client_address, error)


def _handler(ready: Probe, alive: Probe, metrics: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A scraper that connects and says nothing must not hold its thread for ever, s.
        timeout = 30

        def do_GET(self) -> None:
            match self.path.split("?", 1)[0]:
                case "/readyz":
                    self._answer_probe(ready())
                case "/healthz":
                    self._answer_probe(alive())
                case "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, metrics())
                case _:
                    self._answer(404, "text/plain", b"not found: /metrics, /healthz and /readyz are here\n")

        def _answer_probe(self, state: tuple[bool, str]) -> None:
            passed, detail = state
            self._answer(200 if passed else 503, "text/plain; charset=utf-8", f"{detail}\n".encode())

        def _answer(self, code: int, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server passes
            """A probe each second is not news."""

    return Handler
