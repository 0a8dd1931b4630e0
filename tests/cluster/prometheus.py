"""A Prometheus for the end-to-end tests: the scrape jobs of docs/how-to/alerts.md, and the rules as the chart renders them.

It runs on the host, beside the cluster, and finds the pods through the API server. Built from pinned sources by
`cluster.py prometheus`, once.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import steps
import yaml

PAGE = steps.ROOT / "docs/how-to/alerts.md"


def rules() -> dict[str, Any]:
    """The spec of the PrometheusRule that the chart installs, which is a rule file as well."""
    rendered = steps.run(
        ["helm", "template", steps.RELEASE, str(steps.ROOT / "charts/headway"), "--show-only", "templates/alerts.yaml",
         "--api-versions", "monitoring.coreos.com/v1", "--set", "metrics.prometheusRule.enabled=true"]
    )  # fmt: skip
    spec: dict[str, Any] = yaml.safe_load(rendered)["spec"]
    return spec


def configuration() -> dict[str, Any]:
    """The page's configuration; from outside the cluster the API server is found through a kubeconfig."""
    (block,) = re.findall(r"```yaml\n(global:.*?)```", PAGE.read_text(), re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    for job in found["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = os.environ["KUBECONFIG"]
    return found


class Prometheus:
    """Runs while it is entered, on a free port of the loopback, with everything it writes in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        command = [sys.executable, str(steps.ROOT / "deploy/local/cluster.py"), "prometheus"]
        binary = Path(steps.run(command, timeout_s=3600).strip()) / "prometheus"
        wanted = configuration()
        (rule_file,) = wanted["rule_files"]
        (self._folder / rule_file).write_text(json.dumps(rules()))
        file = self._folder / "prometheus.yml"
        file.write_text(json.dumps(wanted))
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [binary, f"--config.file={file}", f"--storage.tsdb.path={self._folder / 'data'}",
                 f"--web.listen-address={self._address}"],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        steps.wait_until("Prometheus to be ready", self._ready, timeout_s=180)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)

    def firing(self, **labels: str) -> dict[str, dict[str, Any]]:
        """Alerts that fire with these labels, by name, as `/api/v1/alerts` has them."""
        with urllib.request.urlopen(f"http://{self._address}/api/v1/alerts", timeout=30) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return {
            alert["labels"]["alertname"]: alert
            for alert in alerts
            if alert["state"] == "firing" and labels.items() <= alert["labels"].items()
        }

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise steps.StepError(f"Prometheus ended:\n{(self._folder / 'log').read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=30):
                return True
        except OSError:
            return False
