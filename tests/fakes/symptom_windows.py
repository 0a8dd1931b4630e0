"""Windows for the rules of a diagnosis: a minute of SmolLM2 on two cores as measured (docs/performance.md).

45 ms between tokens alone, 114 ms with 32 sequences, 60 ms of prefill for 64 tokens.
"""

from dataclasses import replace
from typing import Any

from fleet_world import spec as manifest_spec

from headway_operator.api.v1alpha1 import LLMDeploymentSpec, baseline_limits
from headway_operator.core.evidence import Evidence
from headway_operator.core.load import FleetLoad
from headway_planner.model import Latency, LoadView

REALTIME = {"workloadClass": "realtime", "interTokenLatency": {"targetMilliseconds": 100}}
CAPACITY = {"maxNumSeqs": 32, "maxNumBatchedTokens": 512}
HEALTHY = LoadView(
    serving=2,
    reporting=2,
    span_s=60.0,
    waiting=0.0,
    running=5.0,
    busiest_running=2.6,
    kv_usage=0.05,
    arrivals=120,
    finished=118,
    prompt_share=0.6,
    active=True,
    ttft=Latency(180.0, 90.0, 118),
    queue_wait=Latency(40.0, 5.0, 120),
    prefill=Latency(140.0, 80.0, 118),
    itl=Latency(62.0, 48.0, 3600),
)

# A queue in front of eight sequences that have room for more.
QUEUED = {
    "ttft": Latency(2600.0, 1100.0, 118),
    "queue_wait": Latency(2400.0, 1000.0, 120),
    "waiting": 7.5,
    "busiest_running": 7.9,
    "itl": Latency(66.0, 60.0, 3600),
}


def fleet(**overrides: Any) -> LLMDeploymentSpec:
    """A spec with limits of 8 sequences; interactive: 1500 ms to the first token, 100 ms between tokens."""
    engine = {"device": "cpu", "capacity": CAPACITY, "limits": {"maxNumSeqs": 8, **overrides.pop("limits", {})}}
    return LLMDeploymentSpec.model_validate(manifest_spec(engine=engine, **overrides))


def evidence(spec: LLMDeploymentSpec | None = None, *, prompt_tokens: int = 7552, **view: Any) -> Evidence:
    """A healthy window with changes; its prompts have 64 tokens on average."""
    spec = spec or fleet()
    window = replace(HEALTHY, **view)
    load = FleetLoad(
        view=window,
        tokens_per_s=60.0,
        queue_depth=0,
        last_sample_s=0.0,
        silent=(),
        preemptions=0,
        queue_full=0,
        step=Latency(60.0, 48.0, 1000),
        prompt_tokens=prompt_tokens,
        busiest_mean=window.busiest_running,
    )
    return Evidence(spec, baseline_limits(spec), load)
