"""Runs Kopf in a thread with an event loop of its own, and runs it again when it ends.

Kopf takes every task of its loop for its own and cancels them all when it stops, and it stops by itself after an ERROR
event in a watch stream. Neither may touch the reconciling tasks, their gRPC channels or the Lease, so Kopf gets a loop
apart and hands over nothing but names, through `call_soon_threadsafe`. A watch that ended is begun anew after a jittered
pause; meanwhile the passes go on by their own clocks.
"""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from headway_operator.handlers.wake import CHILD_SELECTOR, CHILDREN, Wake, registry

log = logging.getLogger(__name__)

RESTART_FIRST_S = 0.5
RESTART_CAP_S = 15.0
SERVED_CHECK_S = 0.5  # how soon the thread notices, while it waits for the CRD, that it shall stop


@dataclasses.dataclass(frozen=True, slots=True)
class EndlessJitter:
    """Waits between attempts, for ever: doubling to a cap, each between half and all of its length.

    Attributes:
        first: seconds.
        cap: seconds.
    """

    first: float
    cap: float

    def __iter__(self) -> Iterator[float]:
        """Begin anew with each outage."""
        for attempt in itertools.count():
            yield min(self.cap, self.first * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)  # noqa: S311  jitter


def kopf_settings(request_timeout_s: float) -> kopf.OperatorSettings:
    """Kopf as a mere watcher that outlives outages."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # our Lease elects
    settings.posting.enabled = False  # our Events are our own
    settings.scanning.disabled = True  # discovery once at start: no rights on CRDs and namespaces needed
    settings.networking.request_timeout = request_timeout_s
    settings.networking.error_backoffs = EndlessJitter(first=0.2, cap=15.0)  # a short list ends the operator
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 1.0  # workers hold memory, and ours have nothing to remember
    # This thread must not be able to kill the process; the process does not wait for this thread when it exits.
    settings.process.ultimate_exiting_timeout = None
    for group, version, plural in CHILDREN:
        settings.watching.label_selectors[group, version, plural] = CHILD_SELECTOR
    return settings


class Watch:
    """Watches fleets and children.

    Args:
        wake: called in the event loop that starts the watch, with namespace and fleet.
        served: set while the API serves LLMDeployments. Kopf discovers the API once, and what is missing then it
            never watches.
        scope: the only namespace to watch ("" is all), and the timeout of Kopf's own requests in seconds.
        on_restart: called in the starting event loop when Kopf ended by itself.
    """

    def __init__(
        self, wake: Wake, served: threading.Event, scope: tuple[str, float], on_restart: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._served = served
        self._namespace, self._request_timeout_s = scope
        self._on_restart = on_restart
        self._stop = threading.Event()
        self._stop_kopf: Callable[[], None] = _nothing
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    async def stop(self, patience_s: float) -> None:
        """End the watch; a thread that takes longer than `patience_s` is left behind, it dies with the process."""
        self._stop.set()
        self._stop_kopf()
        try:
            async with asyncio.timeout(patience_s):
                await self._ended.wait()
        except TimeoutError:
            log.warning("the watch did not end within %g s", patience_s)

    def _main(self) -> None:
        waits = iter(EndlessJitter(RESTART_FIRST_S, RESTART_CAP_S))
        while not self._stop.is_set():
            if not self._served.wait(SERVED_CHECK_S):
                continue
            try:
                asyncio.run(self._watch())
            except Exception as error:  # noqa: BLE001  whatever ended Kopf, the answer is to begin anew
                log.warning("the watch ended: %r", error)
            if not self._stop.is_set():
                self._call(self._on_restart)
                self._stop.wait(next(waits))
        self._call(self._ended.set)

    async def _watch(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        # Not a threading.Event: Kopf would park an executor thread on it, and leaving this loop would wait for that one.
        self._stop_kopf = functools.partial(_set_from_afar, loop, stop)
        if self._stop.is_set():
            return
        handlers = registry(lambda namespace, fleet: self._call(self._wake, namespace, fleet))
        kopf.on.login(registry=handlers)(login)
        await kopf.operator(
            registry=handlers,
            settings=kopf_settings(self._request_timeout_s),
            standalone=True,
            clusterwide=not self._namespace,
            namespaces=[self._namespace] if self._namespace else [],
            stop_flag=stop,
        )
        self._stop_kopf = _nothing

    def _call(self, function: Callable[..., None], *args: str) -> None:
        """Run a function in the starting loop; when that loop has closed, nobody cares any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _nothing() -> None:
    """Kopf is not running."""


def _set_from_afar(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of another thread's loop, which may just have closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Credentials for Kopf: the pod's service account, else the user's kubeconfig.

    Kopf would ask the cluster's DNS for the API server; the environment knows its address without.
    """
    account = kopf.login_with_service_account(**kwargs)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if account is None or not host or not port:
        return account or kopf.login_with_kubeconfig(**kwargs)
    return dataclasses.replace(account, server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}")
