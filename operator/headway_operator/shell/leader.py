"""What runs only while this replica leads: the fleets' tasks, the engine poll, the full LIST, the heartbeat.

Three sources wake fleets: watch events (from the handlers, through `wake`), engines that report traffic (each second), and
the full LIST (each minute), which alone is enough to converge: it finds fleets whose events were lost.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

from headway_operator.core.observed import Defaults
from headway_operator.settings import Settings
from headway_operator.shell.engines import Engines
from headway_operator.shell.events import EventRecorder
from headway_operator.shell.execute import Executor
from headway_operator.shell.fleets import Fleets
from headway_operator.shell.health import Health
from headway_operator.shell.kube import FLEET_KIND, Failure, FleetKey, KubeApi, KubeError, text_at
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.reconcile import Decide, Reconciler, Shell

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
STOP_PATIENCE_S = 2.0  # passes under way may finish within this when the process ends
LIST_RETRY_S = 2.0  # the first LIST is repeated so often until it succeeds


class Leader:
    """The operator proper.

    Args:
        settings: see `Settings`.
        kube: the API.
        decide: the core.
        metrics: where passes and engines are counted.
        health: where the heartbeat goes.
    """

    def __init__(self, settings: Settings, kube: KubeApi, decide: Decide, metrics: Metrics, health: Health) -> None:
        self._settings = settings
        self._kube = kube
        # Set while the API serves LLMDeployments; the watch thread waits for it, for it discovers the API only once.
        self.served = threading.Event()
        self._health = health
        self._metrics = metrics
        self._engines = Engines(settings.engine_control_port, settings.poll_timeout_s)
        events = EventRecorder(kube, settings.pod_name, asyncio.get_running_loop().time)
        shell = Shell(
            kube=kube,
            engines=self._engines,
            events=events,
            executor=Executor(kube, self._engines, events),
            metrics=metrics,
            defaults=Defaults(settings.engine_image, settings.engine_image_pull_policy),
        )
        self._fleets = Fleets(Reconciler(shell, decide), metrics.fleets)

    def wake(self, namespace: str, name: str) -> None:
        """A watch event concerns this fleet. Only from the event loop's own thread."""
        self._fleets.wake(FleetKey(namespace, name))

    async def run(self) -> None:
        """Work until cancelled, then stop writing and close what is open."""
        self._metrics.leading(is_leader=True)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resync(), name="resync")
                group.create_task(_every(self._settings.poll_interval_s, self._poll), name="poll")
                group.create_task(_every(HEARTBEAT_S, self._beat), name="heartbeat")
        finally:
            await self._fleets.stop(STOP_PATIENCE_S)
            await self._engines.close()
            self._metrics.leading(is_leader=False)

    async def _resync(self) -> None:
        while True:
            try:
                manifests = await self._kube.list(FLEET_KIND, self._settings.watch_namespace)
            except KubeError as error:
                log.warning("the LIST of %ss failed: %s", FLEET_KIND, error.message)
                if error.failure is Failure.NOT_FOUND:
                    self.served.clear()
                await asyncio.sleep(LIST_RETRY_S)
                continue
            self.served.set()
            for manifest in manifests:
                key = FleetKey(text_at(manifest, "metadata", "namespace"), text_at(manifest, "metadata", "name"))
                if key not in self._fleets:
                    self._fleets.wake(key)
            await asyncio.sleep(self._settings.resync_interval_s)

    async def _poll(self) -> None:
        for key in await self._engines.poll():
            self._fleets.nudge(key)

    async def _beat(self) -> None:
        self._health.beat(self._fleets.longest_overdue_s())


async def _every(interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` at a fixed rate; a turn that took too long delays the next one, but none is made up for."""
    clock = asyncio.get_running_loop().time
    while True:
        began_s = clock()
        await work()
        await asyncio.sleep(max(0.0, began_s + interval_s - clock()))


async def first_of(*jobs: Awaitable[object]) -> int:
    """Run jobs until one ends, cancel the others, and tell which one it was; its exception is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first = next(task for task in tasks if task in done)
    first.result()
    return tasks.index(first)
