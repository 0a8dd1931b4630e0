"""docs/reference/metrics.md names exactly what the engine and the operator export."""

import re
from pathlib import Path

from prometheus_client.core import Metric

from headway_engine.core.histogram import Histogram
from headway_engine.core.limits import Bounds, Envelope, Limits, RuntimeConfigState
from headway_engine.runtime.stats import Loads, StatsSnapshot
from headway_engine.server.metrics import StatsCollector
from headway_operator.shell.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]

_ROW = re.compile(r"^\| (headway_[a-z0-9_]+) \| (gauge|counter|histogram) \|", re.MULTILINE)
_LIMITS = Limits(1, 1, 0, 1)
_BOUNDS = Bounds(1, 1)
_EMPTY = Histogram((), 0, 0.0)
_STATS = StatsSnapshot(
    boot_id="boot",
    uptime_seconds=1.0,
    loads=Loads(
        num_running=0,
        num_waiting=0,
        num_total=0,
        used_tokens=0,
        max_total_num_tokens=1,
        token_usage=0.0,
        gen_throughput=0.0,
        max_running_requests=1,
        waiting_prompt_tokens=0,
        draining=False,
    ),
    ttft=_EMPTY,
    queue_wait=_EMPTY,
    prefill=_EMPTY,
    itl=_EMPTY,
    e2e=_EMPTY,
    step=_EMPTY,
    requests_received=0,
    requests_finished={},
    requests_rejected={},
    prompt_tokens=0,
    generation_tokens=0,
    preemptions=0,
    steps=0,
    config=RuntimeConfigState(1, _LIMITS, _LIMITS, Envelope(_BOUNDS, _BOUNDS, _BOUNDS, _BOUNDS), 0.0),
)


def test_every_exported_metric_is_on_the_page_with_its_type_and_no_other() -> None:
    families = [*StatsCollector(lambda: _STATS, "m").collect(), *Metrics().registry.collect()]

    told = dict(_ROW.findall((ROOT / "docs/reference/metrics.md").read_text()))

    assert told == {_exposed_name(family): family.type for family in families}


def _exposed_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
