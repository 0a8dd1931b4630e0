"""A metrics adapter for one test: `custom.metrics.k8s.io` over what the engines' own `/metrics` say.

It stands for prometheus-adapter or KEDA's metrics server, which take minutes to build: the HPA, its controller, the aggregation
layer and the figures are real. It runs in the test's process; a Service without selector leads the API server to it.
"""

import json
import re
import ssl
import subprocess
import threading
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import steps

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
NAME = "headway-metrics"
_PODS = re.compile(rf"/apis/{GROUP}/{VERSION}/namespaces/([^/]+)/pods/\*/([a-z_]+)")


class MetricsAdapter:
    """Serves while it is entered, on a port of the node."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self._namespace = namespace
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("0.0.0.0", 0), _Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for manifest in self._manifests():
            steps.run(["kubectl", "apply", "-f", "-"], stdin=json.dumps(manifest))
        condition = f"apiservice/{VERSION}.{GROUP}"
        steps.run(["kubectl", "wait", "--for=condition=Available", condition, "--timeout=180s"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First: a group that nobody serves holds up the end of every namespace.
        steps.run(["kubectl", "delete", "apiservice", f"{VERSION}.{GROUP}", "--ignore-not-found"])
        self._server.shutdown()
        self._server.server_close()

    def _manifests(self) -> list[dict[str, Any]]:
        [node] = steps.get("nodes")["items"]
        address = next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")
        metadata = {"name": NAME, "namespace": self._namespace}
        port = {"name": "https", "port": 443, "protocol": "TCP"}
        return [
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [port]}},
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**metadata, "labels": {"kubernetes.io/service-name": NAME}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": [{**port, "port": self._server.server_port}],
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"{VERSION}.{GROUP}"},
                "spec": {
                    "group": GROUP,
                    "version": VERSION,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                    "service": {"name": NAME, "namespace": self._namespace, "port": 443},
                },
            },
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        asked = _PODS.fullmatch(urllib.parse.unquote(url.path))
        if asked is not None:
            selector = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
            self._answer(_values(asked[1], asked[2], selector))
        elif url.path == f"/apis/{GROUP}/{VERSION}":
            self._answer(
                {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": []}
            )
        else:
            self.send_error(404)

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server passes
        """The API server asks for the group all the time."""


def _values(namespace: str, metric: str, selector: str) -> dict[str, Any]:
    pods = steps.get("pods", "-n", namespace, "-l", selector)["items"]
    running = [pod for pod in pods if pod["status"].get("podIP") and pod["status"]["phase"] == "Running"]
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {},
        "items": [
            {
                "describedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": pod["metadata"]["name"]},
                "metric": {"name": metric},
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": str(value),
            }
            for pod in running
            if (value := _scraped(pod["status"]["podIP"], metric)) is not None
        ],
    }  # fmt: skip


def _scraped(address: str, metric: str) -> int | None:
    """The engine's figure; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}:8080/metrics", timeout=10) as answer:
            text = str(answer.read(), "utf-8")
    except OSError:
        return None
    found = re.search(rf"^{metric}(?:{{.*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return None if found is None else round(float(found[1]))
