"""Fleets in trouble, for the alerts: an image that does not exist, more asked than computed, and an engine whose control port a
NetworkPolicy closes to the operator.

Alerts hold for minutes before they fire. So the trouble begins before the other tests and goes on beside them: the first
fleet never starts, the second has a quarter of a CPU, and the third is idle.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import steps
from fleets import SOON_S, apply, manifest
from prometheus import Prometheus

from headway_rpc import EngineStub, pb

NO_IMAGE, OVERLOADED, SILENT = "no-image", "overloaded", "silent"
QUEUE = 8
# One is served, the queue is full, and the others are being refused.
CLIENTS = 1 + QUEUE + 4
_REQUEST = pb.GenerateRequest(
    text="Once upon a time",
    sampling_params=pb.SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True),
)
DATA_PORTS_ONLY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": SILENT},
    "spec": {
        "podSelector": {"matchLabels": {"serving.headway.dev/fleet": SILENT}},
        "ingress": [{"ports": [{"port": 50051}, {"port": 8080}]}],
    },
}


@dataclass(frozen=True, slots=True)
class Incidents:
    """What goes on: the namespace of the fleets, who watches them, and the load's end."""

    namespace: str
    prometheus: Prometheus
    load_ends: threading.Event

    def mend_image(self) -> None:
        """Let the first fleet have the operator's default image."""
        apply(self.namespace, manifest(NO_IMAGE))

    def open_control_port(self) -> None:
        """Let the operator reach the silent engine."""
        steps.run(["kubectl", "delete", "networkpolicy", SILENT, "-n", self.namespace])


@contextmanager
def incidents(namespace: str, prometheus: Prometheus) -> Iterator[Incidents]:
    """Begin them in the namespace, and end the load."""
    ends = threading.Event()
    steps.run(["kubectl", "apply", "-n", namespace, "-f", "-"], stdin=json.dumps(DATA_PORTS_ONLY))
    apply(namespace, manifest(SILENT))
    missing = manifest(NO_IMAGE)
    missing["spec"]["engine"]["image"] = "registry.headway.local/no-such-engine:1"
    apply(namespace, missing)
    # More replicas would help, and it may not have them.
    small = manifest(OVERLOADED, scaling={"mode": "Auto", "minReplicas": 1, "maxReplicas": 1})
    small["spec"]["slo"]["interTokenLatency"]["targetMilliseconds"] = 50
    small["spec"]["engine"] |= {
        "limits": {"maxNumSeqs": 1, "maxQueuedRequests": QUEUE},
        "resources": {"requests": {"cpu": "50m", "memory": "700Mi"}, "limits": {"cpu": "250m", "memory": "2Gi"}},
    }
    apply(namespace, small)
    address = f"{steps.wait_until('its Service', lambda: _cluster_ip(namespace), timeout_s=SOON_S)}:50051"
    clients = [threading.Thread(target=_ask_for_ever, args=(address, ends)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield Incidents(namespace, prometheus, ends)
    finally:
        ends.set()
        for client in clients:
            client.join()


def _cluster_ip(namespace: str) -> str:
    services = json.loads(steps.run(["kubectl", "get", "services", "-n", namespace, "-o", "json"]))["items"]
    found = {one["metadata"]["name"]: str(one["spec"]["clusterIP"]) for one in services}
    return found.get(OVERLOADED, "")


def _ask_for_ever(address: str, ends: threading.Event) -> None:
    """A client that asks again as soon as it is answered, and a second after it was refused."""
    with grpc.insecure_channel(address) as channel:
        while not ends.is_set():
            call = EngineStub(channel).Generate(_REQUEST, wait_for_ready=True)
            try:
                for _ in call:
                    if ends.is_set():
                        call.cancel()
            except grpc.RpcError:
                ends.wait(1.0)
