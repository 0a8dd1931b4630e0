"""Health pages: what fails them, and what must not."""

import logging
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from headway_operator.shell.health import BEAT_LIMIT_S, Health, HealthServer
from headway_operator.shell.metrics import Metrics

Fetch = Callable[[str], tuple[int, str]]


@pytest.fixture
def health() -> Health:
    return Health(stall_s=180.0)


@pytest.fixture
def fetch(health: Health) -> Iterator[Fetch]:
    server = HealthServer(health, Metrics(), 0, "127.0.0.1")
    server.start()

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    yield get
    server.stop()


def test_a_fresh_standby_is_healthy(fetch: Fetch) -> None:
    assert fetch("/healthz") == (200, "ok")


def test_a_stuck_event_loop_fails_health(fetch: Fetch, health: Health) -> None:
    health.beat_s -= BEAT_LIMIT_S + 1.0
    assert fetch("/healthz")[0] == 503
    assert "event loop" in fetch("/healthz")[1]


def test_a_neglected_fleet_fails_health(fetch: Fetch, health: Health) -> None:
    health.beat(overdue_s=181.0)
    assert fetch("/healthz") == (503, "a fleet was not reconciled for 181 s")


def test_readiness_comes_with_the_first_answer_and_survives_an_outage(fetch: Fetch, health: Health) -> None:
    health.reached(0)
    assert fetch("/readyz")[0] == 503
    health.reached(200)
    health.reached(0)
    assert fetch("/readyz") == (200, "ok")


def test_metrics_are_exposed_and_other_pages_are_not(fetch: Fetch) -> None:
    assert "headway_operator_leader 0.0" in fetch("/metrics")[1]
    assert fetch("/secrets")[0] == 404


def test_a_scraper_that_hangs_up_is_no_news(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server = HealthServer(Health(stall_s=180.0), Metrics(), 0, "127.0.0.1")
    server.start()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            # An end by a reset, while the answer is on its way.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
    server.stop()
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_a_page_that_breaks_is_one_line(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Metrics):
        def expose(self) -> bytes:
            raise KeyError("gauge")

    server = HealthServer(Health(stall_s=180.0), Broken(), 0, "127.0.0.1")
    server.start()
    with caplog.at_level(logging.ERROR), socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100) == b""
    server.stop()
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["KeyError('gauge')"]
    assert capfd.readouterr().err == ""
