import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from headway_engine.server.http import HttpServer

State = dict[str, tuple[bool, str]]


@pytest.fixture
def state() -> State:
    return {"ready": (False, "loading"), "alive": (True, "loading")}


@pytest.fixture
def base(state: State) -> Iterator[str]:
    server = HttpServer("127.0.0.1", 0, lambda: state["ready"], lambda: state["alive"], lambda: b"m 1\n")
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_not_ready_is_503_with_the_reason_and_alive_is_200(base: str) -> None:
    assert get(base + "/readyz") == (503, "loading\n")
    assert get(base + "/healthz") == (200, "loading\n")


def test_probes_follow_the_engine(base: str, state: State) -> None:
    state["ready"], state["alive"] = (True, "ok"), (False, "the step loop is dead")
    assert get(base + "/readyz?verbose") == (200, "ok\n")
    assert get(base + "/healthz") == (503, "the step loop is dead\n")


def test_metrics_are_served_and_unknown_paths_are_not_found(base: str) -> None:
    assert get(base + "/metrics") == (200, "m 1\n")
    assert get(base + "/")[0] == 404


def test_a_probe_is_answered_while_a_scrape_waits(state: State) -> None:
    release = threading.Event()
    entered = threading.Event()

    def slow_metrics() -> bytes:
        entered.set()
        release.wait(60)
        return b""

    server = HttpServer("127.0.0.1", 0, lambda: state["ready"], lambda: state["alive"], slow_metrics)
    server.start()
    base = f"http://127.0.0.1:{server.port}"
    scrape = threading.Thread(target=get, args=(base + "/metrics",))
    scrape.start()
    assert entered.wait(60)
    assert get(base + "/healthz")[0] == 200
    release.set()
    scrape.join()
    server.stop()
