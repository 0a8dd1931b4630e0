"""From a fleet under load to its evidence: the windows are those that an operator in a small world sees."""

from dataclasses import replace
from datetime import timedelta

import pytest
from engine_samples import buckets
from fleet_world import World, spec
from toy_traffic import Traffic

from headway_operator.api.conditions import Reason
from headway_operator.api.v1alpha1 import LLMDeployment, baseline_limits
from headway_operator.core import pods
from headway_operator.core.decide import decide
from headway_operator.core.evidence import Evidence, gather
from headway_operator.core.load import fleet_load
from headway_operator.core.objectives import verdict
from headway_operator.core.observed import ClassSample, Observed
from headway_operator.core.plan import Emit, LimitsPatch
from headway_operator.core.symptoms import symptoms

SLO = {"workloadClass": "interactive", "windowSeconds": 30, "interTokenLatency": {"targetMilliseconds": 200}}


def loaded(rate: float, seconds: int = 40, **overrides: object) -> World:
    world = World(spec(slo=SLO, replicas=1, **overrides))
    traffic = Traffic(world)
    for second in range(10 + seconds):
        traffic.rate = rate if second >= 10 else 0
        traffic.second()
    return world


def evidence(world: World, observed: Observed | None = None) -> Evidence:
    observed = observed or world.observe()
    fleet = LLMDeployment.model_validate(world.manifest)
    serving = [pod.name for pod in observed.pods if pods.serving(pod)]
    load = fleet_load(serving, observed.samples, observed.monotonic_s, 30.0)
    return gather(observed, fleet, baseline_limits(fleet.spec), load, verdict(fleet.spec.slo, load.classes))


def test_a_fleet_with_little_to_do_has_no_symptom() -> None:
    assert symptoms(evidence(loaded(0.5))) == ()


def test_a_queue_behind_four_sequences_is_seen_from_the_engines_own_histograms() -> None:
    (found,) = symptoms(evidence(loaded(3)))
    assert found.name is Reason.QUEUE_TOO_LONG
    assert "4.0 of 4 sequences run in the busiest engine" in found.words
    assert "raise spec.engine.limits.maxNumSeqs from 4 to 8" in found.cure


def test_prompts_that_take_longer_than_the_target_are_infeasible_even_alone() -> None:
    world = World(spec(slo=SLO, replicas=1))
    traffic = Traffic(world, prompt_ms=1600, tokens=2)
    for _ in range(50):
        traffic.rate = 0.4
        traffic.second()
    assert [found.name for found in symptoms(evidence(world))] == [Reason.PROMPTS_TOO_LONG]


def test_start_time_is_the_median_of_the_pods_that_serve_and_warming_pods_have_their_age() -> None:
    world = World(spec(replicas=3), boot_s=12)
    for _ in range(15):
        world.step()
    assert evidence(world).supply.warming == 0
    one, *rest = world.observe().pods
    late = replace(one, ready=False, ready_since=None, created=world.now - timedelta(seconds=40))
    found = evidence(world, replace(world.observe(), pods=(late, *rest))).supply
    assert (found.warming, found.start_s, found.oldest_warming_s) == (1, pytest.approx(12, abs=1), 40)


def test_a_pod_whose_engine_restarted_tells_nothing_of_how_long_a_start_takes() -> None:
    world = World(spec(replicas=3), boot_s=12)
    for _ in range(15):
        world.step()
    one, other, rest = world.observe().pods
    starting = replace(one, ready=False, ready_since=None)
    assert other.container is not None
    again = replace(
        other, ready_since=world.now + timedelta(hours=1), container=replace(other.container, restart_count=1)
    )
    assert evidence(world, replace(world.observe(), pods=(starting, again, rest))).supply.start_s == pytest.approx(
        12, abs=1
    )


def test_growth_is_told_only_while_replicas_start() -> None:
    world = World(spec(slo=SLO, replicas=2), boot_s=3)
    traffic = Traffic(world)
    for second in range(40):
        traffic.rate = max(0, second - 10) / 10
        traffic.second()
    assert evidence(world).growth is None
    one, *rest = world.observe().pods
    starting = replace(one, ready=False, ready_since=None)
    found = evidence(world, replace(world.observe(), pods=(starting, *rest))).growth
    assert found == pytest.approx(0.05, rel=0.5), "half of 0.1 requests/s per second: one of two engines is left"


def shared(chat_ms: float, batch_ms: float) -> Evidence:
    """A fleet that chat and batch work share, after thirty requests of each whose time to first token is queue wait."""
    world = World(spec(slo={**SLO, "classes": [{"workloadClass": "batch"}]}, replicas=1))
    world.settle()
    for engine in world.engines.values():
        engine.classes = {
            kind: ClassSample(buckets(*[late_ms] * 30), buckets(*[late_ms - 90] * 30), buckets(*[50.0] * 30))
            for kind, late_ms in (("interactive", chat_ms), ("batch", batch_ms))
        }
        engine.record("prefill", 80.0, 60)
        engine.received += 60
    world.tick(1)
    return evidence(world)


def test_each_class_that_shares_a_fleet_is_judged_by_its_own_objective() -> None:
    assert symptoms(shared(430.0, 4300.0)) == (), "4.3 s are well for batch work"
    (found,) = symptoms(shared(4300.0, 4300.0))
    assert found.name is Reason.QUEUE_TOO_LONG
    assert found.words.startswith("interactive p95 TTFT 4")
    assert "> 1500 ms is queue wait" in found.words
    (found,) = symptoms(shared(430.0, 43_000.0))
    assert found.words.startswith("batch p95 TTFT 4")
    assert "> 10000 ms is queue wait" in found.words


FOREIGN = LimitsPatch(13, 99, 0, 256)


def settled() -> World:
    world = World(spec(replicas=1))
    world.settle()
    return world


def rival(world: World) -> None:
    """Somebody else sets the limits of the only engine, which it reports a second later."""
    (engine,) = world.engines.values()
    engine.effective, engine.revision = FOREIGN, engine.revision + 1
    world.tick(1)


def test_limits_that_the_operator_never_asked_for_are_named_with_their_values() -> None:
    world = settled()
    assert evidence(world).rivals == ()
    rival(world)
    (sentence,) = evidence(world).rivals
    assert "maxNumSeqs 13, maxNumBatchedTokens 99 (times seen in 45 s: 1)" in sentence
    assert [found.name for found in symptoms(evidence(world))] == [Reason.RIVAL_WRITER]


def test_a_foreign_write_to_an_engine_that_restarted_counts_like_any_other() -> None:
    world = settled()
    (engine,) = world.engines.values()
    rival(world)
    engine.effective, engine.revision = engine.baseline, engine.revision + 1
    world.tick(1)
    engine.effective, engine.boot_id = FOREIGN, "another"  # as many writes as before since its new boot
    world.tick(1)
    assert "(times seen in 45 s: 2)" in evidence(world).rivals[0]


def test_limits_of_somebody_else_are_told_from_an_engine_that_does_not_answer() -> None:
    world = settled()
    (pod,) = world.engines
    for _ in range(15):
        rival(world)
        world.run()
    assert world.condition("TuningApplied")["message"] == f"{pod} answer, with other limits"
    world.engines[pod].silent = True
    for _ in range(15):
        world.step()
    assert world.condition("TuningApplied")["message"].startswith(f"not confirmed by {pod}: are they reachable")


def test_a_change_of_the_spec_is_not_foreign() -> None:
    world = settled()
    world.edit(engine={**spec()["engine"], "limits": {"maxNumSeqs": 7, "maxNumBatchedTokens": 70}})
    assert evidence(world).rivals == ()
    world.settle()
    assert evidence(world).rivals == ()


@pytest.mark.parametrize(
    ("mode", "entries", "words"),
    [
        (
            "Off",
            [("kube-controller-manager", "scale")],
            "kube-controller-manager writes spec.replicas through the scale",
        ),
        ("Off", [("kubectl", "scale"), ("kubectl-client-side-apply", "")], None),
        ("External", [("kube-controller-manager", "scale")], None),
        ("External", [("kube-controller-manager", "scale"), ("argocd", "")], "and to argocd as well"),
    ],
)
def test_owners_of_the_count_are_judged_by_the_mode(
    mode: str, entries: list[tuple[str, str]], words: str | None
) -> None:
    world = World(spec(replicas=1, scaling={"mode": mode}))
    world.settle()
    world.manifest["metadata"]["managedFields"] = [
        {"manager": manager, "subresource": subresource, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for manager, subresource in entries
    ]
    found = evidence(world).rivals
    assert [words in sentence for sentence in found] == ([True] if words else [])


@pytest.mark.parametrize(
    ("mode", "counts", "found"),
    [
        ("External", [5, 2, 5, 2], 1),
        ("External", [5, 2, 5], 0),
        ("External", [3, 5, 7, 9], 0),
        ("Off", [5, 2, 5, 2], 1),
    ],
)
def test_a_count_that_goes_back_and_forth_has_two_writers(mode: str, counts: list[int], found: int) -> None:
    world = World(spec(replicas=2, scaling={"mode": mode}))
    world.settle()
    for count in counts:
        world.edit(replicas=count)
        for _ in range(20):
            world.step()
    rivals = evidence(world).rivals
    assert len(rivals) == found
    assert not found or "back and forth between 5 and 2, 4 times in 1 min" in rivals[0]
    world.tick(700)
    assert evidence(world).rivals == ()


def test_a_count_that_the_operator_took_over_has_one_writer_whatever_was_before() -> None:
    world = World(spec(slo=SLO, replicas=2, scaling={"mode": "External"}))
    world.settle()
    for count in (5, 2, 5, 2):
        world.edit(replicas=count)
        world.step(20)
    assert len(evidence(world).rivals) == 1
    world.edit(replicas=None, scaling={"mode": "Auto", "minReplicas": 1, "maxReplicas": 5})
    world.step()
    assert evidence(world).rivals == ()


def test_an_autoscaler_whose_writes_are_refused_in_mode_auto_is_named() -> None:
    world = World(spec(slo=SLO, scaling={"mode": "Auto", "minReplicas": 1, "maxReplicas": 3}))
    world.settle()
    observed = replace(world.observe(), autoscalers=("chat-hpa",))
    (sentence,) = evidence(world, observed).rivals
    assert sentence.startswith("HorizontalPodAutoscaler chat-hpa targets this fleet")
    assert sentence.endswith("the API server refuses its writes")
    told = [action for action in decide(observed).actions if isinstance(action, Emit)]
    assert [(one.type, one.event_reason) for one in told] == [("Warning", "RivalWriter")]
