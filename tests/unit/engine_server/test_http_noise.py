"""What clients do to the HTTP port is no news; what breaks on our side is one line."""

import logging
import socket
import struct

import pytest

from headway_engine.server.http import HttpServer


def reset(port: int, sent: bytes) -> None:
    """Send something and hang up with a reset, not an orderly end."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(sent)


def answers(port: int) -> bytes:
    """The status line of a probe; a thread that handled an earlier connection has had its turn by then."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return client.makefile("rb").readline()


def test_reset_connections_leave_no_line_and_do_no_harm(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server = HttpServer("127.0.0.1", 0, lambda: (True, "ok"), lambda: (True, "ok"), lambda: b"x" * 10_000_000)
    server.start()
    for _ in range(5):
        reset(server.port, b"GET /metrics HTTP/1.1\r\n\r\n")
        reset(server.port, b"GET")
    assert answers(server.port) == b"HTTP/1.1 200 OK\r\n"
    server.stop()
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_a_page_that_breaks_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise KeyError("gauge")

    server = HttpServer("127.0.0.1", 0, lambda: (True, "ok"), lambda: (True, "ok"), broken)
    server.start()
    with caplog.at_level(logging.ERROR), socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100) == b""
    server.stop()
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["KeyError('gauge')"]
