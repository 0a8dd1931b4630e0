"""The advisor's step model against measured points, and what must hold of any answer."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_cli import main as cli
from headway_cli.errors import CliError
from headway_cli.plan import claims, tables
from headway_cli.simulate import engines
from headway_planner.advisor import assess, computed
from headway_planner.capacity import Mix
from headway_planner.measured import POINTS, Kind, Point, computed_ms
from headway_planner.offer import ClassDemand, Demand, Engine, Hardware, Row
from headway_planner.roofline import GPUS, SHAPES, step_model
from headway_planner.trial import poisson, trial

LIMIT = {Kind.DECODE: 0.10, Kind.PREFILL: 0.18, Kind.ALL_REDUCE: 0.30}


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_roofline_is_near_every_measured_and_published_point(point: Point) -> None:
    assert computed_ms(point) == pytest.approx(point.measured_ms, rel=LIMIT[point.kind])


def one_class(rate: float, inputs: float, outputs: float, long_input: int = 0) -> Demand:
    return Demand((ClassDemand("interactive", rate, Mix(inputs, outputs), 1500, 100, long_input),))


CHAT = ClassDemand("realtime", 5, Mix(300, 150), 400, 50)
BATCH = ClassDemand("batch", 2, Mix(4000, 800), 10_000, 500)


def test_more_rate_never_takes_fewer_replicas() -> None:
    shape, gpu = SHAPES["llama8b"], GPUS["A100"]
    counts = [
        assess(computed(shape, Hardware(gpu, 1)), one_class(rate, 1000, 200)).replicas for rate in (1, 5, 20, 80, 320)
    ]
    assert counts == sorted(counts)
    assert counts[0] >= 1


def test_a_front_that_streams_slow_down_delays_first_tokens_by_the_streams_of_the_batch() -> None:
    model = step_model(SHAPES["llama8b"], GPUS["H100"], 1, "nvlink")
    demand = one_class(8, 1000, 200)
    before, after = (assess(Engine("mine", replace(model, first_token_each_ms=each)), demand) for each in (0.0, 0.5))
    assert before.replicas == after.replicas == 1
    assert before.ttft_p95_ms is not None
    assert after.ttft_p95_ms is not None
    streams = (after.ttft_p95_ms - before.ttft_p95_ms) / 0.5
    # Little's law: 8 requests/s * 200 tokens * some 10 ms a step.
    assert 10 < streams < 25
    assert streams == pytest.approx(round(streams))
    assert after.itl_p95_ms == before.itl_p95_ms


def test_70b_needs_tensor_parallelism_and_8b_fits_one_l40s() -> None:
    assert all(step_model(SHAPES["llama70b"], gpu, 1, "nvlink").kv_tokens == 0 for gpu in GPUS.values())
    assert step_model(SHAPES["llama8b"], GPUS["L40S"], 1, "pcie").kv_tokens > 10_000


def test_the_mean_request_of_a_mix_holds_the_context_of_the_classes_that_produce() -> None:
    mix = Demand((CHAT, BATCH)).mix
    assert mix.inputs == pytest.approx((5 * 300 + 2 * 4000) / 7)
    assert mix.outputs == pytest.approx((5 * 150 + 2 * 800) / 7)
    assert mix.context == pytest.approx((750 * 375 + 1600 * 4400) / 2350)


def test_better_classes_wait_less_and_more_beside_others_than_alone() -> None:
    hardware = Hardware(GPUS["A100"], 1)
    alone = assess(computed(SHAPES["llama8b"], hardware), Demand((CHAT,)))
    shared = assess(computed(SHAPES["llama8b"], hardware), Demand((CHAT, replace(CHAT, name="batch"))))
    assert [one.name for one in shared.classes] == ["realtime", "batch"]
    assert alone.classes[0].ttft_p95_ms < shared.classes[0].ttft_p95_ms < shared.classes[1].ttft_p95_ms


def test_the_strictest_gap_between_tokens_holds_for_all_classes() -> None:
    rows = [
        assess(computed(SHAPES["llama8b"], Hardware(GPUS["L40S"], 1)), Demand(mix)) for mix in ((BATCH,), (CHAT, BATCH))
    ]
    assert rows[1].batch is not None
    assert rows[0].batch is not None
    assert rows[1].batch < rows[0].batch


def waiting(rate: float, deadline_s: float = 900.0) -> ClassDemand:
    return replace(BATCH, rate=rate, deadline_s=deadline_s)


def fleet(*classes: ClassDemand) -> Row:
    return assess(computed(SHAPES["llama8b"], Hardware(GPUS["A100"], 1)), Demand(classes))


@given(online=st.floats(0.5, 200), batch=st.floats(0.1, 20))
@settings(max_examples=25)
def test_work_that_may_wait_takes_what_the_others_leave(online: float, batch: float) -> None:
    chat = replace(CHAT, rate=online)
    alone, shared, full = fleet(chat), fleet(chat, waiting(batch)), fleet(chat, replace(BATCH, rate=batch))
    slack = shared.slack
    assert slack is not None
    assert slack.replicas_online == alone.replicas <= shared.replicas <= full.replicas
    assert shared.replicas >= slack.waiting + slack.online, "no fleet is planned in which work only piles up"
    assert (shared.classes[1].ttft_p95_ms, full.slack, alone.slack) == (None, None, None)


def test_a_little_work_that_may_wait_fits_into_the_room_for_bursts() -> None:
    chat = ClassDemand("interactive", 60, Mix(1000, 200), 1500, 100)
    alone = fleet(chat)
    small = fleet(chat, waiting(0.5))
    assert small.replicas == alone.replicas < fleet(chat, replace(BATCH, rate=2)).replicas
    assert small.slack is not None
    assert small.slack.online + small.slack.waiting < 0.95 * alone.replicas


@pytest.mark.parametrize("batch", [10, 16.25])
def test_a_trickle_beside_much_work_that_may_wait_gets_the_replicas_that_it_needs(batch: float) -> None:
    more = fleet(replace(CHAT, rate=1.0), waiting(1.2 * batch))
    assert 0 < fleet(replace(CHAT, rate=1.0), waiting(batch)).replicas <= more.replicas


def test_nothing_but_work_that_may_wait_needs_its_mean() -> None:
    row = fleet(waiting(10))
    assert row.slack is not None
    assert row.slack.online == row.slack.replicas_online == 0
    assert row.replicas == math.ceil(row.slack.waiting / 0.95)


def test_an_answer_that_takes_longer_than_its_deadline_is_named() -> None:
    assert fleet(CHAT, waiting(1, deadline_s=5)).binds.startswith("infeasible: an answer takes")


def test_deadlines_of_a_planned_fleet_are_met_in_the_simulator() -> None:
    demand = Demand((replace(CHAT, rate=40), waiting(3)))
    row = assess(computed(SHAPES["llama8b"], Hardware(GPUS["A100"], 1)), demand)
    model = step_model(SHAPES["llama8b"], GPUS["A100"], 1, "nvlink")
    seen = trial(model, row.replicas, demand, poisson(demand, 7), 7)
    assert seen.confirmed
    assert [one.attainment for one in seen.classes] == [1.0, 1.0]
    assert not trial(model, 1, demand, poisson(demand, 7), 7).confirmed


def test_an_infeasible_class_is_named() -> None:
    long = replace(CHAT, mix=Mix(40_000, 100))
    row = assess(computed(SHAPES["llama8b"], Hardware(GPUS["H100"], 1)), Demand((long, BATCH)))
    assert row.replicas == 0
    assert row.binds.startswith("infeasible: own prefill")
    assert row.binds.endswith("(realtime)")


@pytest.mark.parametrize(
    ("name", "gpu", "tp", "load", "binds"),
    [
        ("llama8b", "L40S", 1, (5, 3000, 1000), "memory"),
        ("llama8b", "H200", 1, (5, 200, 800), "bandwidth"),
        ("llama8b", "H100", 1, (5, 4000, 100), "compute"),
        ("llama8b", "H200", 8, (5, 20, 100), "communication"),
    ],
)
def test_each_of_the_four_can_bind(name: str, gpu: str, tp: int, load: tuple[int, int, int], binds: str) -> None:
    row = assess(computed(SHAPES[name], Hardware(GPUS[gpu], tp)), one_class(*load))
    assert row.binds == binds
    assert binds == "memory" or row.parts_ms[binds] == max(
        ms for part, ms in row.parts_ms.items() if part != "launches"
    )


def test_cost_is_that_of_all_gpus_over_the_output_tokens() -> None:
    row = assess(computed(SHAPES["llama8b"], Hardware(GPUS["H100"], 2, price=2.5)), one_class(50, 1000, 200))
    assert row.usd_per_hour == pytest.approx(2.5 * row.gpus)
    assert row.usd_per_million == pytest.approx(2.5 * row.gpus / (3600 * 50 * 200 / 1e6))


@pytest.mark.parametrize("gpu", ["H100", "A100"])
def test_the_estimate_is_at_most_three_times_what_the_simulator_has_and_hardly_less(gpu: str) -> None:
    demand = Demand((CHAT, ClassDemand("interactive", 20, Mix(1000, 200), 1500, 100), BATCH))
    row = assess(computed(SHAPES["llama8b"], Hardware(GPUS[gpu], 1)), demand)
    model = step_model(SHAPES["llama8b"], GPUS[gpu], 1, "nvlink")
    seen = trial(model, row.replicas, demand, poisson(demand, 1), 1)
    assert seen.confirmed
    assert seen.unfinished == 0
    for estimated, one in zip(row.classes, seen.classes, strict=True):
        assert one.attainment == 1.0
        # Each replica is taken for a queue of its own; a router by work leaves less of its wait the more replicas there are.
        assert estimated.ttft_p95_ms is not None
        assert one.ttft_p95_ms is not None
        assert 0.85 < estimated.ttft_p95_ms / one.ttft_p95_ms < 3
    assert row.itl_p95_ms == pytest.approx(seen.itl_p95_ms, rel=0.45)


def test_the_command_prints_a_line_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "20", "--input", "1000", "--output", "200", "--prices", "h100=2.5"]
    assert cli.run(["plan", "--model", "llama8b", *load, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 16
    assert {row["gpu"] for row in rows if row["usd_per_million"]} == {"H100"}


def test_a_trace_brings_rate_and_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.csv"
    lines = "".join(f"{at / 10},1000,200\n" for at in range(101))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{lines}")
    assert cli.run(["plan", "--model", "llama8b", "--trace", str(trace), "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["tokens_per_s"] == pytest.approx(10.1 * 200)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert cli.run(["plan", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


MIX = ["--load", "batch=2/4000/800", "--load", "realtime=5/300/150"]


def test_several_classes_share_a_fleet_better_ones_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = plan(capsys, "--model", "llama8b", *MIX, "--prices", "h100=2.5")
    (advised,) = [row for row in rows if row["advised"]]
    assert advised["gpu"] == "H100"
    assert [one["name"] for one in advised["classes"]] == ["realtime", "batch"]
    assert advised["tokens_per_s"] == pytest.approx(5 * 150 + 2 * 800)
    assert advised["simulated"] == []


def test_batch_work_beside_others_has_a_deadline_and_alone_only_where_one_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def deadlines(*arguments: str) -> list[float | None]:
        return [one["deadline_s"] for one in plan(capsys, "--model", "llama8b", *arguments)[0]["classes"]]

    assert deadlines(*MIX) == [None, 900.0]
    assert deadlines(*MIX, "--batch-deadline", "3600") == [None, 3600.0]
    assert deadlines(*MIX, "--batch-deadline", "inf") == [None, None]
    assert deadlines("--load", "batch=2/4000/800") == [None]
    assert deadlines("--load", "batch=2/4000/800", "--batch-deadline", "60") == [60.0]


def test_the_table_says_what_goes_into_slack(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--model", "llama8b", *MIX]) == 0
    told = capsys.readouterr().out
    assert " slack binds" in told
    assert "In slack: batch (2/s, done in 900 s) takes " in told
    assert cli.run(["plan", "--model", "llama8b", "--rate", "1", "--input", "9", "--output", "9"]) == 0
    assert "slack" not in capsys.readouterr().out


def test_classes_of_a_trace_are_planned_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.csv"
    lines = "".join(
        f"{at},{4000 if at % 5 == 0 else 300},100,{'batch' if at % 5 == 0 else 'realtime'}\n" for at in range(101)
    )
    trace.write_text(f"arrival_s,input_tokens,output_tokens,class\n{lines}")
    row = plan(capsys, "--model", "llama8b", "--trace", str(trace))[0]
    found = {one["name"]: (round(one["rate"], 2), one["input_tokens"], one["deadline_s"]) for one in row["classes"]}
    assert found == {"realtime": (0.8, 300, None), "batch": (0.21, 4000, 900.0)}


def test_the_advised_fleet_is_simulated_beside_its_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "llama8b", *MIX, "--simulate", "--seed", "3"]
    (advised,) = [row for row in plan(capsys, *arguments) if row["simulated"]]
    assert advised["advised"]
    (seen,) = advised["simulated"]
    assert (seen["replicas"], seen["confirmed"]) == (advised["replicas"], True)
    assert [one["attainment"] for one in seen["classes"]] == [1.0, 1.0]
    assert cli.run(["plan", *arguments]) == 0
    assert f"Simulated {advised['replicas']} x {advised['gpu']} TP{advised['tp']}" in capsys.readouterr().out


def test_a_count_that_the_trace_overruns_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.csv"
    lines = "".join(f"{60 * minute},2000,20\n" for minute in range(5) for _ in range(40))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{lines}")
    assert cli.run(["plan", "--model", "llama8b", "--trace", str(trace), "--simulate"]) == 0
    assert "NOT CONFIRMED: the estimated count, 1, misses a target" in capsys.readouterr().out


def test_every_coefficient_names_its_source_and_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, "--model", "llama8b", *MIX, "--sources")
    found = [line for line in lines if "coefficient" in line]
    assert {line["gpu"] for line in found} == {*GPUS, "all"}
    assert all(line["source"] and line["error"] and line["unit"] for line in found)
    (share,) = [line for line in found if (line["gpu"], line["coefficient"]) == ("H100", "weight_share")]
    assert share["error"].startswith("decode, measured: -0.9 to +1.1 %")


def test_the_page_shows_the_claims_as_they_are_computed() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/plan-capacity.md").read_text()
    assert "\n".join(tables.claims(claims.findings())) in page, "paste what `headway plan --claims` prints"


def test_an_h100_takes_35_to_45_percent_less_time_a_token_than_an_a100() -> None:
    assert [one.differs for one in claims.findings() if one.claim == "H100 against A100: less time a token"] == [
        0.0
    ] * 9


def test_claims_are_printed_as_json_with_how_far_they_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--claims", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (small,) = [one for one in found if one["case"] == "llama8b, H100, TP 2 to 4, batch 1"]
    assert small["differs"] == pytest.approx(small["computed"] - 14)
    assert {one["high"] for one in found if one["unit"] == "tokens"} == {None, 0.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no", "--rate", "1", "--input", "9", "--output", "9"], "--model: no model 'no'"),
        (["--model", "llama8b", "--rate", "-1", "--input", "9", "--output", "9"], "--rate must be above 0"),
        (["--model", "llama8b", "--rate", "1", "--input", "100000", "--output", "9"], "infeasible: own prefill"),
        (["--model", "llama8b", "--rate", "1", "--input", "9", "--output", "9", "--prices", "x=1"], "--prices must"),
        (["--model", "llama8b", "--load", "fast=1/9/9"], "--load must be CLASS=RATE/INPUT/OUTPUT"),
        (["--model", "llama8b", "--load", "batch=1/9/x"], "--load batch must be above 0"),
        (["--model", "llama8b", "--load", "batch=1/9/9", "--load", "batch=1/9/9"], "each class at most once"),
        (["--model", "llama8b", "--load", "batch=1/9/9", "--rate", "1"], "give one of"),
        (["--model", "llama8b", "--load", "batch=1/9/9", "--batch-deadline", "0"], "--batch-deadline must be above 0"),
        (
            ["--model", "llama8b", "--load", "batch=1/9/9", "--batch-deadline", "nan"],
            "--batch-deadline must be above 0",
        ),
        (["--model", "llama8b", "--load", "batch=1/9/9", "--class", "realtime"], "--class is for --rate and --trace"),
        (
            ["--model", "llama8b", "--rate", "1000000", "--input", "9", "--output", "9", "--simulate"],
            "--simulate: 120000000 requests are more than 20000000",
        ),
        (
            ["--engine-file", "x", "--interconnect", "pcie", "--rate", "1", "--input", "9", "--output", "9"],
            "--interconnect is for computed engines",
        ),
    ],
)
def test_bad_input_names_the_flag(arguments: list[str], said: str) -> None:
    with pytest.raises(CliError, match=said):
        cli.run(["plan", *arguments])


@pytest.mark.parametrize("hidden", ["1e999", "1" + "0" * 300, "[" * 100_000])
def test_a_shape_beyond_all_models_is_refused(tmp_path: Path, hidden: str) -> None:
    shape = tmp_path / "config.json"
    rest = ", ".join(f'"num_{name}": 1' for name in ("attention_heads", "hidden_layers"))
    shape.write_text(f'{{{rest}, "intermediate_size": 1, "vocab_size": 1, "hidden_size": {hidden}}}')
    with pytest.raises(CliError, match="--shape"):
        cli.run(["plan", "--shape", str(shape), "--rate", "1", "--input", "9", "--output", "9"])


def test_measured_engines_are_planned_from_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "20", "--input", "1000", "--output", "200", "--prices", "H100-llama8b-TP1=2.5"]
    assert cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["gpu"] for row in rows] == [one.name for one in engines.load_all(engines.BUILT_IN)]
    assert (rows[0]["gpu"], rows[0]["tp"]) == ("h100-llama8b-tp1", 1)
    assert rows[0]["usd_per_million"] == pytest.approx(2.5 * rows[0]["replicas"] / (3600 * 20 * 200) * 1e6)
    assert cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load]) == 0
    assert "Take " in capsys.readouterr().out
    advised = [
        row for row in plan(capsys, "--engine-file", str(engines.BUILT_IN), *load, "--simulate") if row["advised"]
    ]
    assert advised[0]["simulated"][0]["confirmed"]
    with pytest.raises(CliError, match=r"--prices .* with a GPU of h100-llama8b-tp1, .*got 'H100=2'"):
        cli.run(["plan", "--engine-file", str(engines.BUILT_IN), *load, "--prices", "H100=2"])
    with pytest.raises(CliError, match="cannot read the engine file"):
        cli.run(["plan", "--engine-file", str(tmp_path / "none.csv"), *load])
