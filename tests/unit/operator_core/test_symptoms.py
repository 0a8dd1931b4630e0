"""Each symptom with a window in which it shows and one in which it does not."""

from dataclasses import replace
from typing import Any

import pytest
from symptom_windows import QUEUED, REALTIME, evidence, fleet

from headway_operator.api.conditions import Reason
from headway_operator.api.v1alpha1 import baseline_limits
from headway_operator.core.evidence import Evidence, Supply
from headway_operator.core.symptoms import NAMES, Severity, Symptom, symptoms
from headway_planner.model import Latency, LoadView


def only(found: tuple[Symptom, ...]) -> Symptom:
    (one,) = found
    return one


def test_a_fleet_within_its_objective_has_no_symptom() -> None:
    assert symptoms(evidence()) == ()


def test_no_traffic_and_no_objective_are_no_symptom() -> None:
    quiet = LoadView(serving=1, reporting=1, span_s=60.0, quiet=True)
    assert symptoms(Evidence(fleet(), baseline_limits(fleet()), replace(evidence().load, view=quiet))) == ()
    assert symptoms(evidence(fleet(slo=None), **QUEUED)) == ()


def test_few_first_tokens_are_not_judged() -> None:
    assert symptoms(evidence(ttft=Latency(9000.0, 9000.0, 7))) == ()
    assert symptoms(evidence(ttft=Latency(9000.0, 9000.0, 8))) != ()


def test_prefill_over_the_target_on_an_idle_engine_is_infeasible() -> None:
    alone = {
        "ttft": Latency(2110.0, 1900.0, 20),
        "prefill": Latency(2100.0, 1890.0, 20),
        "queue_wait": Latency(3.0, 1.0, 20),
        "busiest_running": 0.7,
    }
    found = only(symptoms(evidence(prompt_tokens=38000, **alone)))
    assert (found.name, found.severity) == (Reason.PROMPTS_TOO_LONG, Severity.CRITICAL)
    assert "p95 prefill (prompts of 1900 tokens on average) alone takes 2100 ms > TTFT target 1500 ms" in found.words
    assert "targetMilliseconds to 2520 or more" in found.cure
    busy = only(symptoms(evidence(**{**alone, "busiest_running": 4.0})))
    assert busy.name is Reason.PREFILL_TOO_SLOW, "beside other requests the same prefill may be cured"


def test_a_wait_for_company_beside_free_slots_is_the_batch_wait() -> None:
    spec = fleet(limits={"batchWaitMilliseconds": 400, "batchingMode": "Dynamic"}, slo=REALTIME)
    waits = {"ttft": Latency(560.0, 430.0, 118), "queue_wait": Latency(405.0, 330.0, 120), "waiting": 0.7}
    found = only(symptoms(evidence(spec, **waits)))
    assert found.name is Reason.BATCH_WAIT_TOO_LONG
    assert "p95 TTFT 560 ms > 400 ms with tokens/s steady at 60" in found.words
    assert "wait 330 ms (median) for company while 2.6 of 8 sequences run; batchWaitMilliseconds is 400" in found.words
    assert "batchWaitMilliseconds from 400 to 130" in found.cure
    full = only(symptoms(evidence(spec, **waits, busiest_running=7.9)))
    assert full.name is Reason.QUEUE_TOO_LONG, "no slot is free"
    short = fleet(limits={"batchWaitMilliseconds": 20}, slo=REALTIME)
    assert only(symptoms(evidence(short, **waits))).name is Reason.QUEUE_TOO_LONG, "20 ms explain nothing"


def test_static_groups_make_requests_wait_beside_free_slots() -> None:
    found = only(symptoms(evidence(fleet(limits={"batchingMode": "Static"}), **{**QUEUED, "busiest_running": 4.0})))
    assert found.name is Reason.BATCH_WAIT_TOO_LONG
    assert "batchingMode Continuous" in found.cure


def test_late_first_tokens_that_queue_behind_the_limit_ask_for_the_limit() -> None:
    found = symptoms(evidence(**QUEUED))[0]
    assert found.name is Reason.QUEUE_TOO_LONG
    assert "is queue wait: 2400 ms against 140 ms of compute" in found.words
    assert "in the mean of 60 s 7.5 requests wait, 7.9 of 8 sequences run in the busiest engine" in found.words
    assert "raise spec.engine.limits.maxNumSeqs from 8 to 16 (live, no pod restarts)" in found.cure
    assert symptoms(evidence(**{**QUEUED, "ttft": Latency(1400.0, 900.0, 118), "waiting": 0.4})) == ()


def test_limits_that_were_just_raised_get_their_time_before_a_queue_is_a_symptom() -> None:
    seen = evidence(fleet(tuning={"mode": "Auto", "cooldownSeconds": 20}), **QUEUED)
    assert symptoms(replace(seen, raised_s=19.0)) == ()
    assert symptoms(replace(seen, raised_s=20.0))[0].name is Reason.QUEUE_TOO_LONG
    before = [Reason.QUEUE_TOO_LONG]
    assert symptoms(replace(seen, raised_s=1.0), before) != (), "what is told already is not taken back for it"


def test_a_long_queue_of_which_few_have_begun_is_judged_by_its_length() -> None:
    few = {"ttft": Latency(40000.0, 30000.0, 6), "queue_wait": Latency(39000.0, 30000.0, 6), "waiting": 55.0}
    found = only(symptoms(evidence(**few, busiest_running=8.0, itl=Latency(95.0, 90.0, 600))))
    assert found.name is Reason.QUEUE_TOO_LONG
    assert "55.0 requests wait, 8.0 of 8 sequences run in the busiest engine, and 6 began in 60 s" in found.words
    assert "one that comes now begins in 550 s, the TTFT target is 1500 ms" in found.words
    none = only(symptoms(evidence(waiting=9.0, ttft=Latency(), queue_wait=Latency(), itl=Latency())))
    assert "one that comes now never begins" in none.words
    assert symptoms(evidence(**{**few, "waiting": 1.5})) == ()
    assert symptoms(evidence(**{**few, "waiting": 2.5, "queue_wait": Latency(900.0, 500.0, 60)})) == ()


def test_a_queue_is_not_judged_before_it_was_seen_for_as_long_as_a_late_wait() -> None:
    nobody = {"waiting": 9.0, "ttft": Latency(), "queue_wait": Latency(), "itl": Latency()}
    assert symptoms(evidence(**nobody, span_s=2.9)) == ()
    assert only(symptoms(evidence(**nobody, span_s=3.0))).name is Reason.QUEUE_TOO_LONG


def test_what_a_few_engines_of_a_large_fleet_say_counts_for_all() -> None:
    few = {"ttft": Latency(40000.0, 30000.0, 6), "queue_wait": Latency(39000.0, 30000.0, 6), "waiting": 550.0}
    one = evidence(**few)
    found = only(symptoms(replace(one, load=replace(one.load, share=10.0))))
    assert "and 60 began in 60 s: at this rate one that comes now begins in 550 s" in found.words
    many = evidence(prompt_tokens=75_520)
    assert replace(many, load=replace(many.load, share=10.0)).prompt_length == 64


def test_late_first_tokens_behind_slow_steps_ask_for_replicas() -> None:
    slow = {**QUEUED, "itl": Latency(95.0, 80.0, 3600), "arrivals": 240, "finished": 120}
    (found,) = symptoms(evidence(**slow))
    assert found.cure == (
        "the engines are busy: raise spec.replicas above 2, to about 5, or set spec.scaling.mode Auto"
    )
    auto = {"scaling": {"mode": "Auto", "maxReplicas": 2}}
    assert "raise spec.scaling.maxReplicas above 2, to about 5" in symptoms(evidence(fleet(**auto), **slow))[0].cure
    auto = {"scaling": {"mode": "Auto", "maxReplicas": 8}}
    assert "scaling may go to 8 replicas" in symptoms(evidence(fleet(**auto), **slow))[0].cure


def test_late_first_tokens_without_a_queue_are_compute() -> None:
    busy = {"ttft": Latency(1900.0, 700.0, 118), "prefill": Latency(1800.0, 650.0, 118), "busiest_running": 6.0}
    found = only(symptoms(evidence(**busy)))
    assert found.name is Reason.PREFILL_TOO_SLOW
    assert (
        "is compute: 1800 ms of prefill (prompts of 64 tokens on average) against 40 ms of queue wait, beside 6.0"
        in found.words
    )
    assert "lower maxNumSeqs from 8 (live), so that fewer share a step, or use a faster device" in found.cure
    long = only(symptoms(evidence(prompt_tokens=118 * 900, **busy)))
    assert "raise spec.engine.capacity.maxNumBatchedTokens above 512, so that a prompt needs fewer steps" in long.cure
    assert "profile Throughput" in only(symptoms(evidence(fleet(limits={"profile": "LowTail"}), **busy))).cure


def test_slow_tokens_ask_for_smaller_batches_or_fewer_prompts_in_a_step() -> None:
    found = only(symptoms(evidence(itl=Latency(114.0, 100.0, 3600), prompt_share=0.3, busiest_running=7.0)))
    assert found.name is Reason.STEPS_TOO_LONG
    assert "time between tokens 114 ms > 100 ms: steps take 60 ms with 7.0 sequences" in found.words
    assert "lower maxNumSeqs from 8" in found.cure
    prompts = only(symptoms(evidence(itl=Latency(341.0, 60.0, 3600), prompt_share=0.7)))
    assert "profile LowTail" in prompts.cure
    alone = only(symptoms(evidence(itl=Latency(114.0, 110.0, 600), prompt_share=0.1, busiest_running=0.9)))
    assert "one sequence alone is too slow" in alone.cure


def test_a_binding_limit_beside_roomy_latencies_holds_tokens_down() -> None:
    small = {
        "busiest_running": 7.8,
        "waiting": 3.0,
        "ttft": Latency(900.0, 500.0, 118),
        "queue_wait": Latency(700.0, 1.0, 118),
    }
    found = only(symptoms(evidence(**small)))
    assert found.name is Reason.BATCHES_TOO_SMALL
    assert "60 tokens/s are held down by maxNumSeqs 8: 7.8 sequences run in the busiest engine and 3.0" in found.words
    assert symptoms(evidence(**{**small, "waiting": 0.2})) == (), "nobody waits: this is all the demand there is"
    assert symptoms(evidence(**{**small, "itl": Latency(80.0, 70.0, 3600)})) == (), "tokens have no room"


@pytest.mark.parametrize(
    ("spec", "cure"),
    [
        ({}, "raise spec.engine.limits.maxNumSeqs from 8 to 16"),
        ({"tuning": {"mode": "Auto"}}, "tuning may raise it to 32, one change in 30 s"),
        (
            {"tuning": {"mode": "Auto", "bounds": {"maxNumSeqs": {"min": 1, "max": 8}}}},
            "raise spec.tuning.bounds.maxNumSeqs.max above 8",
        ),
        ({"limits": {"maxNumSeqs": 32}}, "raise spec.engine.capacity.maxNumSeqs above 32"),
    ],
)
def test_the_cure_of_small_batches_names_what_binds(spec: dict[str, Any], cure: str) -> None:
    held = {"busiest_running": 31.0 if "limits" in spec else 7.8, "waiting": 3.0}
    assert cure in only(symptoms(evidence(fleet(**spec), **held))).cure


def test_a_full_kv_cache_below_the_limit_binds() -> None:
    full = {"kv_usage": 0.97, "waiting": 4.0, "busiest_running": 5.0}
    found = only(symptoms(evidence(**full)))
    assert found.name is Reason.KV_CACHE_FULL
    assert "is 97% full with 5.0 of 8 sequences running and 4.0 requests waiting" in found.words
    assert symptoms(evidence(**{**full, "waiting": 0.0})) == (), "nobody is held back"
    late = symptoms(evidence(**full, ttft=QUEUED["ttft"], queue_wait=QUEUED["queue_wait"]))
    assert [one.name for one in late] == [Reason.KV_CACHE_FULL], "the queue is a consequence"


def test_preemptions_count_against_what_finished() -> None:
    many = evidence(kv_usage=0.8)
    many = replace(many, load=replace(many.load, preemptions=12))
    found = only(symptoms(many))
    assert "12 sequences gave way" in found.words
    assert "lower maxNumSeqs from 8" in found.cure
    assert symptoms(replace(many, load=replace(many.load, preemptions=5))) == ()
    roomy = evidence(kv_usage=0.1)
    assert symptoms(replace(roomy, load=replace(roomy.load, preemptions=12))) == (), "they gave way to better classes"


def test_refused_requests_are_critical() -> None:
    one = evidence(waiting=512.0)
    found = symptoms(replace(one, load=replace(one.load, queue_full=31)))[0]
    assert (found.name, found.severity) == (Reason.QUEUE_FULL, Severity.CRITICAL)
    assert symptoms(replace(one, load=replace(one.load, queue_full=1)))[0].name is Reason.QUEUE_FULL, "one is enough"
    assert "31 of 120 requests were refused in 60 s" in found.words


def test_demand_that_grows_faster_than_replicas_start() -> None:
    grown = replace(evidence(**QUEUED), supply=Supply(warming=2, start_s=95.0), growth=0.05)
    names = [one.name for one in symptoms(grown)]
    assert names[:2] == [Reason.QUEUE_TOO_LONG, Reason.COLD_START_TOO_SLOW]
    words = symptoms(grown)[1].words
    assert "2 replicas on the way, 95 s from creation to ready" in words
    assert "one replica's worth (1.0 requests/s) in 20 s" in words
    quick = replace(grown, supply=Supply(warming=2, start_s=8.0))
    assert Reason.COLD_START_TOO_SLOW not in [one.name for one in symptoms(quick)]
    steady = replace(grown, growth=-0.01, supply=Supply(warming=2, start_s=25.0))
    assert Reason.COLD_START_TOO_SLOW not in [one.name for one in symptoms(steady)]


def test_a_first_replica_that_starts_for_longer_than_the_window_needs_no_measured_start() -> None:
    first = replace(evidence(**QUEUED), supply=Supply(warming=1, oldest_warming_s=120.0))
    assert "the objective is judged over 30 s" in symptoms(first)[1].words


def test_a_foreign_writer_is_a_symptom_of_its_own() -> None:
    found = only(symptoms(replace(evidence(), rivals=("somebody else set the limits",))))
    assert (found.name, found.words) == (Reason.RIVAL_WRITER, "somebody else set the limits")


def test_the_worst_comes_first() -> None:
    one = evidence(**QUEUED)
    one = replace(one, load=replace(one.load, queue_full=3), rivals=("x",))
    assert [found.severity for found in symptoms(one)] == sorted(
        (found.severity for found in symptoms(one)), key=lambda severity: severity is not Severity.CRITICAL
    )
    assert symptoms(one)[0].name is Reason.QUEUE_FULL


def test_a_reported_symptom_stays_at_an_edge_that_would_not_raise_it() -> None:
    near = {**QUEUED, "ttft": Latency(1450.0, 900.0, 118), "waiting": 0.4}
    assert symptoms(evidence(**near)) == ()
    assert only(symptoms(evidence(**near), {Reason.QUEUE_TOO_LONG})).name is Reason.QUEUE_TOO_LONG
    assert symptoms(evidence(**{**near, "ttft": Latency(1300.0, 900.0, 118)}), set(NAMES)) == ()
