"""The alerts are generated, read only what is exported, explain themselves, and fire when and only when they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from alert_cases import CASES, Case
from alert_rules import ALERTS, rule_file
from fake_async_engine import FakeAsyncEngine
from localcluster import build
from localcluster.settings import Paths
from localcluster.versions import WATCHERS
from prometheus_client import Gauge

from headway_engine.server.metrics import StatsCollector
from headway_operator.shell.kube import FleetKey
from headway_operator.shell.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy/alerts/headway.rules.yaml"
PROMTOOL = shutil.which("promtool") or str(build.bin_dir(Paths.from_env(os.environ), WATCHERS) / "promtool")
KEY = FleetKey("apps", "chat")


def full_manifest() -> dict[str, object]:
    return {
        "spec": {"slo": {"workloadClass": "realtime"}},
        "status": {
            "replicas": 2,
            "readyReplicas": 2,
            "scaling": {"desiredReplicas": 2},
            "tuning": {"revision": 1, "appliedReplicas": 2, "effective": {"maxQueuedRequests": 10}},
            "slo": {
                "ttftObservedMilliseconds": 250,
                "interTokenLatencyObservedMilliseconds": 20,
                "queueDepth": 3,
                "deadline": {
                    "seconds": 900,
                    "waitingRequests": 40,
                    "doneInSeconds": 300,
                    "spareSeconds": 500,
                    "neededReplicas": 2,
                    "finishedCount": 9,
                    "lateCount": 1,
                },
            },
            "conditions": [{"type": "ScalingLimited", "status": "True", "reason": "MaxReplicas"}],
        },
    }


def exported() -> dict[str, set[str]]:
    """Sample name -> its labels, of an engine and an operator that have something to tell."""
    metrics = Metrics()
    metrics.fleet(KEY, full_manifest(), 1.0)  # type: ignore[arg-type]
    families = [*StatsCollector(FakeAsyncEngine().stats, "m").collect(), *metrics.registry.collect()]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_the_files_are_the_generated_ones() -> None:
    assert RULES.read_text() == rule_file()
    assert (ROOT / "charts/headway/files/alerts.yaml").read_text() == rule_file()


def test_every_metric_and_label_is_exported() -> None:
    known = exported()
    for alert in ALERTS:
        found = re.findall(r"(headway_[a-z_]+)(?:\{([^}]*)\})?", alert.expr + alert.cause)
        assert found, alert.name
        for name, matchers in found:
            assert name in known, f"{alert.name}: {name}"
            assert set(re.findall(r"([a-z_]+)(?:!~|=~|!=|=)", matchers)) <= known[name], f"{alert.name}: {name}"
        used = re.findall(r"by \(([a-z_, ]+)\) \((?:last_over_time\()?(headway_[a-z_]+)", alert.expr)
        for labels, name in used:
            assert set(labels.split(", ")) <= known[name], f"{alert.name}: {name}"


def test_every_alert_has_a_number_a_cure_and_a_place_in_the_runbook() -> None:
    page = (ROOT / "docs/how-to/alerts.md").read_text()
    headings = {line.removeprefix("## ").lower() for line in page.splitlines() if line.startswith("## ")}
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        notes = rule["annotations"]
        assert notes["summary"]
        assert notes["runbook"] == f"docs/how-to/alerts.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in headings
        assert re.search(r"\$value|\d", notes["description"])
        assert rule["for"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_there_is_a_case_for_every_alert() -> None:
    assert {(case.alert, dict(case.labels).get("workload_class")) for case in CASES} == {
        (alert.name, dict(alert.labels).get("workload_class")) for alert in ALERTS
    }


@pytest.mark.skipif(not Path(PROMTOOL).is_file(), reason="`make prometheus` builds promtool")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.alert, *(value for _, value in case.labels)]))
def test_it_fires_when_it_should_and_is_quiet_otherwise(case: Case, tmp_path: Path) -> None:
    query = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    tests = [
        {
            "interval": "30s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": query, "eval_time": case.at, "exp_samples": samples}],
        }
        for series, samples in ((case.fires, [{"labels": "{}", "value": 1}]), (case.quiet, []))
    ]
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests}))
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_class_of_a_shared_fleet_has_series_of_its_own() -> None:
    metrics, manifest = Metrics(), full_manifest()
    classes = [
        {"workloadClass": kind, "ttftObservedMilliseconds": seen, "ttftTargetMilliseconds": target}
        for kind, seen, target in (("realtime", 250, 400), ("batch", 9000, 10_000))
    ]
    status = {**manifest["status"], "slo": {"classes": classes, "queueDepth": 40}}  # type: ignore[dict-item]
    status["tuning"] = {"effective": {"maxQueuedRequests": 8, "maxQueuedBatchRequests": 100}}
    metrics.fleet(KEY, {**manifest, "status": status}, 1.0)  # type: ignore[dict-item]
    value = metrics.registry.get_sample_value
    for kind, seen_s, target_s in (("realtime", 0.25, 0.4), ("batch", 9.0, 10.0)):
        labels = {"namespace": "apps", "fleet": "chat", "workload_class": kind}
        assert value("headway_fleet_ttft_seconds", labels) == seen_s
        assert value("headway_fleet_ttft_target_seconds", labels) == target_s
    # Batch work that waits in its own bound does not fill the queue of the others.
    assert value("headway_fleet_queue_limit_requests", {"namespace": "apps", "fleet": "chat"}) == 200


def test_a_fleet_without_traffic_or_objective_loses_those_series() -> None:
    metrics, manifest = Metrics(), full_manifest()
    metrics.fleet(KEY, manifest, 1.0)  # type: ignore[arg-type]
    labels = {"namespace": "apps", "fleet": "chat", "workload_class": "realtime"}
    value = metrics.registry.get_sample_value
    assert value("headway_fleet_ttft_seconds", labels) == 0.25
    assert value("headway_fleet_ttft_target_seconds", labels) == 0.4
    assert value("headway_fleet_queue_limit_requests", {"namespace": "apps", "fleet": "chat"}) == 20
    metrics.fleet(KEY, {**manifest, "status": {}}, None)  # type: ignore[dict-item]
    assert value("headway_fleet_ttft_seconds", labels) is None
    assert value("headway_fleet_ttft_target_seconds", labels) == 0.4
    assert value("headway_fleet_sample_age_seconds", {"namespace": "apps", "fleet": "chat"}) is None
    metrics.fleet(KEY, {"spec": {}}, None)
    assert value("headway_fleet_ttft_target_seconds", labels) is None


def test_work_with_a_deadline_has_its_own_series_and_no_target_for_its_first_tokens() -> None:
    metrics, manifest = Metrics(), full_manifest()
    objective = {"slo": {"workloadClass": "batch", "deadlineSeconds": 900}}
    metrics.fleet(KEY, {**manifest, "spec": objective}, 1.0)  # type: ignore[dict-item]
    fleet, value = {"namespace": "apps", "fleet": "chat"}, metrics.registry.get_sample_value
    batch = {**fleet, "workload_class": "batch"}
    assert value("headway_fleet_ttft_seconds", batch) == 0.25
    assert value("headway_fleet_ttft_target_seconds", batch) is None
    assert value("headway_fleet_inter_token_latency_target_seconds", batch) == 0.5
    assert value("headway_fleet_deadline_seconds", fleet) == 900
    assert value("headway_fleet_deadline_late_requests", fleet) == 1
    metrics.fleet(KEY, {**manifest, "status": {}}, None)  # type: ignore[dict-item]
    assert value("headway_fleet_deadline_late_requests", fleet) is None


def test_a_scrape_beside_a_pass_misses_none_of_the_series_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes are answered by a thread of their own, at any moment of a pass."""
    metrics, manifest = Metrics(), full_manifest()

    def shown() -> set[str]:
        return {
            one.name
            for family in metrics.registry.collect()
            for one in family.samples
            if KEY.name in one.labels.values()
        }

    metrics.fleet(KEY, manifest, 1.0)
    before, scraped, real = shown(), list[set[str]](), Gauge.set

    def scraping(gauge: Gauge, value: float) -> None:
        scraped.append(shown())
        real(gauge, value)

    monkeypatch.setattr(Gauge, "set", scraping)
    metrics.fleet(KEY, manifest, 1.0)
    assert scraped
    assert all(one == before for one in scraped)
