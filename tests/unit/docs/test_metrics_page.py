"""docs/reference/metrics.md names exactly what the engine and the operator export."""

import re
from pathlib import Path

from fake_async_engine import FakeAsyncEngine
from prometheus_client.core import Metric

from headway_engine.server.metrics import StatsCollector
from headway_operator.shell.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]

_ROW = re.compile(r"^\| (headway_[a-z0-9_]+) \| (gauge|counter|histogram) \|", re.MULTILINE)


def test_every_exported_metric_is_on_the_page_with_its_type_and_no_other() -> None:
    families = [*StatsCollector(FakeAsyncEngine().stats, "m").collect(), *Metrics().registry.collect()]

    told = dict(_ROW.findall((ROOT / "docs/reference/metrics.md").read_text()))

    assert told == {_exposed_name(family): family.type for family in families}


def _exposed_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
