"""The operator process: settings, health server, Lease, then fleets and watch for as long as this replica leads.

Exit codes: 0 after SIGTERM or SIGINT, 1 when the Lease was lost (start again, as a standby), 2 for unusable settings
or credentials.
Nothing is written before the Lease is held, and a leader that loses it ends the process: a fresh one has no stale plans.
"""

import asyncio
import gc
import logging
import os
import signal
import sys

from headway_operator.core.decide import decide
from headway_operator.handlers.watch import Watch
from headway_operator.settings import Settings, SettingsError
from headway_operator.shell.health import Health, HealthServer
from headway_operator.shell.kube import KubeApi, KubeError, Ref
from headway_operator.shell.kube_client import KubeClient
from headway_operator.shell.leader import Leader, first_of
from headway_operator.shell.lease import Lease, LeaseTiming
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.reconcile import Decide

log = logging.getLogger("headway_operator")

LEASE_NAME = "headway-operator"
# When the collector walks (default 700, 10, 10). A decision about 5,000 engines makes some 50,000 objects, in no cycles: a walk over the
# young ones fell into each decision, for a fifth of its time. One over the samples of all engines takes 0.7 s, and comes as seldom as before.
COLLECTOR = (60_000, 10, 10)
EXIT_LOST = 1
EXIT_SETTINGS = 2
WATCH_STOP_S = 1.5  # together with the fleets' patience this stays below the promised 5 s
RELEASE_TIMEOUT_S = 1.0


def main() -> int:
    """Run the operator; returns the exit code."""
    gc.set_threshold(*COLLECTOR)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"headway-operator: {error}\n")
        return EXIT_SETTINGS
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Kopf warns of each thread it runs in that it leaves signals to the main one.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    for noisy in ("kopf", "asyncio", "aiohttp", "grpc"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    return asyncio.run(run(settings, decide))


async def run(settings: Settings, decision: Decide) -> int:
    """Serve health pages, wait for the Lease, lead; returns the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, health = Metrics(), Health(settings.stall_s)
    server = HealthServer(health, metrics, settings.http_port)
    server.start()

    def observe_request(verb: str, kind: str, status: int, seconds: float) -> None:
        metrics.request(verb, kind, status, seconds)
        health.reached(status)

    try:
        kube = await KubeClient.connect(settings.request_timeout_s, observe_request, settings.kubeconfig)
        try:
            return await _lead(settings, kube, decision, Leadership(metrics, health, stop))
        finally:
            await kube.close()
    except KubeError as error:
        log.error("%s", error.message)  # noqa: TRY400  the sentence says it all
        return EXIT_SETTINGS
    finally:
        server.stop()


class Leadership:
    """What outlives a term as leader: metrics, health, and the wish to stop."""

    def __init__(self, metrics: Metrics, health: Health, stop: asyncio.Event) -> None:
        self.metrics = metrics
        self.health = health
        self.stop = stop


async def _lead(settings: Settings, kube: KubeApi, decision: Decide, process: Leadership) -> int:
    timing = LeaseTiming(settings.lease_duration_s, settings.lease_renew_deadline_s, settings.lease_retry_s)
    lease = Lease(kube, Ref("Lease", settings.namespace, LEASE_NAME), settings.pod_name, timing)
    log.info("%s waits for the Lease %s/%s", settings.pod_name, settings.namespace, LEASE_NAME)
    if await first_of(lease.acquire(), process.stop.wait(), _stand_by(process.health)) != 0:
        return 0
    log.info("%s leads", settings.pod_name)
    leader = Leader(settings, kube, decision, process.metrics, process.health)
    scope = (settings.watch_namespace, settings.request_timeout_s)
    watch = Watch(leader.wake, leader.served, scope, process.metrics.watch_restarted)
    watch.start()
    try:
        ended = await first_of(lease.hold(), process.stop.wait(), leader.run())
    finally:
        await watch.stop(WATCH_STOP_S)
    if ended == 0:
        return EXIT_LOST
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            await lease.release()
    except TimeoutError:
        log.warning("the Lease could not be released in time")
    log.info("%s stopped", settings.pod_name)
    return 0


async def _stand_by(health: Health) -> None:
    """Keep a replica without the Lease healthy; never returns."""
    while True:
        health.beat(0.0)
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
