"""`headway simulate`: what it prints and what it refuses."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from headway_cli import main as cli
from headway_cli.simulate import arguments, runs, targets
from headway_planner.rivals.catalog import CATALOG

EXCERPT = str(Path(__file__).parents[3] / "benchmarks" / "traces" / "azure2023_code_excerpt.csv.gz")
FIELDS = {
    "trace", "policy", "seed", "start_delay_s", "attainment", "attainment_by_class", "gpu_hours", "replicas_mean",
    "reversals_per_hour", "cut_streams",
}  # fmt: skip


def test_bench_prints_one_line_per_policy_and_seed(capsys: pytest.CaptureFixture[str]):
    policies = "headway,hpa,clairvoyant,work-bound"
    flags = ["--duration", "200", "--scale", "4", "--start-delay", "5", "--json"]
    assert cli.run(["simulate", "bench", "--trace", EXCERPT, "--seeds", "3-4", "--policies", policies, *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["policy"], row["seed"]) for row in rows] == [
        (policy, seed) for policy in policies.split(",") for seed in (3, 4)
    ]
    assert all(row.keys() >= FIELDS for row in rows)
    assert all(row["cut_streams"] == 0 and row["attainment_by_class"].keys() == {"realtime"} for row in rows)
    bound = min(row["gpu_hours"] for row in rows if row["policy"] == "work-bound")
    assert all(row["gpu_hours"] >= bound for row in rows)


def test_one_run_is_the_same_twice(capsys: pytest.CaptureFixture[str]):
    command = ["simulate", EXCERPT, "--policy", "headway-reactive", "--seed", "9", "--duration", "200", "--json"]
    cli.run(command)
    first = capsys.readouterr().out
    cli.run(command)
    assert capsys.readouterr().out == first
    assert json.loads(first)["seed"] == 9


def test_a_class_column_is_taken_and_a_wrong_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,class\n5,100,10,realtime\n6,100,10,batch\n")
    cli.run(["simulate", str(trace), "--policy", "static", "--scale", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["attainment_by_class"] == {"realtime": 1.0, "batch": 1.0}
    trace.write_text("arrival_s,input_tokens,output_tokens,class\n5,100,10,urgent\n")
    with pytest.raises(cli.CliError, match="line 2: class must be one of realtime, interactive, batch, got 'urgent'"):
        cli.run(["simulate", str(trace)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["bench"], "simulate bench needs --trace FILE..."),
        (["bench", "--trace", EXCERPT, "--policies", "hpa,magic"], "no policy magic"),
        (["bench", "--trace", EXCERPT, "--seeds", "4-2"], "4-2 holds no seed"),
        (["/nowhere.csv"], "cannot read the trace /nowhere.csv"),
        ([EXCERPT, "--start-delay", "0"], "--start-delay must be above 0"),
        ([EXCERPT, "--batch-share", "1"], "--batch-share must be at least 0 and at most 0.99, got 1"),
        ([EXCERPT, "--batch-deadline", "-1"], "--batch-deadline must be above 0"),
        ([EXCERPT, "--batch-deadline", "0"], "--batch-deadline must be above 0"),
        ([EXCERPT, "--duration", "nan"], "--duration must be above 0, got nan"),
        ([EXCERPT, "--duration", "-1"], "--duration must be above 0, got -1"),
        ([EXCERPT, "--noise", "inf"], "--noise must be at least 0 and at most 10, got inf"),
        ([EXCERPT, "--mtbf-hours", "nan"], "--mtbf-hours must be at least 0, got nan"),
        ([EXCERPT, "--spread", "nan"], "--spread must be at least 0 and at most 86400, got nan"),
        ([EXCERPT, "--load", "1e300"], "--load must be above 0 and at most 10000"),
        ([EXCERPT, "--max-num-seqs", "99999999"], "--max-num-seqs must be at least 1 and at most 4096"),
        ([EXCERPT, "--policy", "hpa", "--target", "nan"], "--target must be above 0"),
        ([EXCERPT, "--target", "3"], "--target: policy headway has none"),
        ([EXCERPT, "--policies", "hpa"], "--policies is for bench; one run has --policy and --seed"),
        ([EXCERPT, "--seeds", "0-9"], "--seeds is for bench"),
        (["bench", "--trace", EXCERPT, "--policy", "hpa"], "--policy is for one run; bench has --policies and --seeds"),
        (["bench", "--trace", EXCERPT, "--seed", "0"], "--seed is for one run"),
        ([EXCERPT, "--engine", "abacus"], "no engine abacus"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(flags: list[str], message: str):
    with pytest.raises(cli.CliError, match=message):
        cli.run(["simulate", *flags])


HEAD = b"arrival_s,input_tokens,output_tokens\n"
ROWS = HEAD + b"0,10,10\n" * 99


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", HEAD + b"0," + b"9" * 200_000 + b",1\n", "cannot read the trace .*field larger than"),
        ("a.csv.gz", gzip.compress(ROWS)[:10] + b"\xff" * 40, "cannot read the trace .*while decompressing"),
        ("a.csv", HEAD + b"0,10,10\n1,10485761,1\n", "line 3: input_tokens and output_tokens must be at most 10485760"),
        ("a.csv", HEAD[:-1] + b",input_tokens,,\n0,10,10,5,,\n", "has column input_tokens more than once"),
        ("a.csv", HEAD + b"0,10,10\n1e12,10,10\n", "arrival_s spans 1000000000000 s, at most 31622400"),
        ("a.csv", HEAD + b"0,10,10000000\n" * 999, "its first minutes are work for .* replicas, at most 10000"),
    ],
)
def test_a_trace_that_cannot_be_read_or_held_is_refused(tmp_path: Path, name: str, content: bytes, message: str):
    trace = tmp_path / name
    trace.write_bytes(content)
    with pytest.raises(cli.CliError, match=message):
        cli.run(["simulate", str(trace), "--policy", "static"])


def test_a_scale_that_makes_too_many_requests_is_refused(tmp_path: Path):
    trace = tmp_path / "mine.csv"
    trace.write_bytes(HEAD + b"0,10,10\n" * 2001)
    with pytest.raises(cli.CliError, match="2001 requests times 10000 are more than 20000000"):
        cli.run(["simulate", str(trace), "--scale", "10000"])


def test_a_trace_of_a_spreadsheet_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trace = tmp_path / "mine.csv"
    trace.write_bytes(b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r\n"))
    cli.run(["simulate", str(trace), "--policy", "static", "--scale", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["requests"] == 99


def test_the_table_has_80_columns_and_a_heading_for_each_trace_and_start_delay(capsys: pytest.CaptureFixture[str]):
    flags = ["--duration", "60", "--scale", "1", "--start-delay", "5,60", "--policies", "static,work-bound"]
    cli.run(["simulate", "bench", "--trace", EXCERPT, "--trace", EXCERPT, *flags])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 80
    assert [line for line in lines if "start in" in line] == [
        f"azure2023_code_excerpt, replicas start in {delay} s" for delay in (5, 60, 5, 60)
    ]


def test_bench_runs_every_start_delay_and_tunes_each_rival_once_for_it(capsys: pytest.CaptureFixture[str]):
    flags = ["--duration", "100", "--scale", "2", "--start-delay", "5,60", "--tuned", "--json"]
    cli.run(["simulate", "bench", "--trace", EXCERPT, "--seeds", "0-1", "--policies", "keda", "--jobs", "2", *flags])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [(row["start_delay_s"], row["seed"], row["policy"]) for row in rows]
    assert names == [(delay, seed, name) for delay in (5, 60) for seed in (0, 1) for name in ("keda", "keda-tuned")]
    for delay in (5, 60):
        targets = {row["target"] for row in rows if row["start_delay_s"] == delay and row["policy"] == "keda-tuned"}
        assert len(targets) == 1


def _judged(monkeypatch: pytest.MonkeyPatch, judge: Callable[[int, float], runs.Row], seeds: int) -> list[runs.Case]:
    """Cases of which a policy's rows are `judge(seed, target)`."""
    monkeypatch.setattr(runs, "run", lambda case, _policy, target: judge(case.seed, target))
    options = arguments.parse(cli.build_parser().parse_args(["simulate", EXCERPT]))
    maker = runs.cases(Path(EXCERPT), options)
    return [maker.case(seed, 100.0) for seed in range(seeds)]


def _row(attainment: float, hours: float, deadlines: float | None = None) -> runs.Row:
    shares = {"interactive": attainment}
    kept = {} if deadlines is None else {"deadlines_met": deadlines}
    feasible = {"feasible_by_class": {"interactive": 1.0}}
    return {"attainment": attainment, "attainment_by_class": shares, **feasible, "gpu_hours": hours, **kept}


@pytest.mark.parametrize(
    ("least", "best"), [(18.0, 16.0), (0.3, 0.25), (300.0, 324.0), (1000.0, 1093.5), (0.001, 0.0625)]
)
def test_a_sweep_goes_on_past_an_end_that_is_the_best(monkeypatch: pytest.MonkeyPatch, least: float, best: float):
    cases = _judged(monkeypatch, lambda _, target: _row(1.0, abs(math.log(target / least))), 1)
    assert targets.best(targets.sweep(cases, "hpa")) == best


def test_a_target_is_as_good_as_it_is_in_the_mean_of_the_seeds(monkeypatch: pytest.MonkeyPatch):
    """At seed 0 a target of 40 meets the goal, at the others one of 20 does; each is cheaper the larger it is."""
    cases = _judged(
        monkeypatch, lambda seed, target: _row(1.0 if target <= (20 if seed else 40) else 0.9, 100 / target), 3
    )
    assert targets.of(cases[:1], "hpa", ()) == {"tuned": pytest.approx(40, rel=0.1)}
    assert targets.of(cases, "hpa", ()) == {"tuned": pytest.approx(20, rel=0.15)}


def test_between_a_target_and_its_cheaper_neighbour_two_more_are_tried(monkeypatch: pytest.MonkeyPatch):
    tried: list[float] = []

    def judge(_seed: int, target: float) -> runs.Row:
        tried.append(target)
        return _row(1.0 if target <= 30 else 0.95 if target <= 39 else 0.5, 100 / target)

    found = targets.of(_judged(monkeypatch, judge, 1), "hpa", [_row(0.95, 3.0)])
    # The sweep has 24, 32 and 48: 30 is looked for between the first two, 39 between the others.
    assert found == {"tuned": pytest.approx(29.78, abs=0.01), "matched": pytest.approx(35.41, abs=0.01)}
    added = set(tried) - set(CATALOG["hpa"].sweep)
    assert sorted(added) == pytest.approx([27.71, 29.78, 35.41, 39.19], abs=0.01)


def test_a_rival_is_matched_where_it_is_cheapest_of_those_as_punctual_as_ours():
    rows = {
        4.0: _row(0.99, 9.0, 1.0),
        8.0: _row(0.9, 5.0, 1.0),
        16.0: _row(0.8999, 4.0, 1.0),
        24.0: _row(0.9, 3.0, 0.9),
    }
    assert targets.matching(rows, _row(0.9, 2.0, 1.0)) == 16.0
    assert targets.matching(rows, _row(1.0, 2.0, 1.0)) is None


BATCH = ["--batch-share", "0.4", "--batch-deadline", "300"]


def test_batch_work_runs_in_one_fleet_and_in_two_and_says_how_many_deadlines_were_met(
    capsys: pytest.CaptureFixture[str],
):
    flags = ["--duration", "100", "--scale", "2", "--start-delay", "5", "--tuned", "--json", *BATCH]
    cli.run(["simulate", "bench", "--trace", EXCERPT, "--policies", "headway,keda,clairvoyant", *flags])
    rows = {row["policy"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    names = ["headway", "keda", "keda-tuned", "keda-separate", "keda-separate-tuned", "clairvoyant"]
    # Whether there is a cheaper target that is as punctual depends on how punctual ours is.
    assert [name for name in rows if not name.endswith("-matched")] == names
    assert len({row["requests"] for row in rows.values()}) == 1
    assert all(0 < row["deadlines_met"] <= 1 for row in rows.values())
    assert all(row["attainment"] == row["attainment_by_class"]["realtime"] for row in rows.values())
    apart = rows["keda-separate"]
    assert 0 < apart["batch_gpu_hours"] < apart["gpu_hours"]
    assert rows["headway"]["deadlines_met"] == 1.0


@pytest.mark.parametrize(("fleet", "names"), [("pooled", ["keda"]), ("separate", ["keda-separate"])])
def test_rivals_run_in_the_fleets_that_are_asked_for(fleet: str, names: list[str], capsys: pytest.CaptureFixture[str]):
    flags = ["--duration", "60", "--start-delay", "5", "--json", "--batch-fleet", fleet, *BATCH]
    cli.run(["simulate", "bench", "--trace", EXCERPT, "--policies", "keda", *flags])
    assert [json.loads(line)["policy"] for line in capsys.readouterr().out.splitlines()] == names


def test_a_deadline_column_is_taken_and_is_for_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trace = tmp_path / "mine.csv"
    head = "arrival_s,input_tokens,output_tokens,class,deadline_s\n"
    trace.write_text(head + "5,100,10,realtime,\n6,100,10,batch,0.01\n6,100,10,batch,\n7,100,10,batch,60\n")
    command = ["simulate", str(trace), "--policy", "static", "--scale", "1", "--json"]
    cli.run(command)
    assert json.loads(capsys.readouterr().out)["deadlines_met"] == 0.5
    cli.run([*command, "--batch-deadline", "60"])
    assert json.loads(capsys.readouterr().out)["deadlines_met"] == pytest.approx(2 / 3, abs=1e-6)
    for line, message in (
        ("5,100,10,realtime,60", "deadline_s is for requests of class batch"),
        ("5,100,10,batch,soon", "deadline_s must be a number, got 'soon'"),
        ("5,100,10,batch,0", "deadline_s must be above 0"),
    ):
        trace.write_text(head + line + "\n")
        with pytest.raises(cli.CliError, match=message):
            cli.run(command)


def test_engines_that_let_the_late_wait_keep_more_in_time_and_the_row_says_so(capsys: pytest.CaptureFixture[str]):
    flags = ["--policy", "static", "--target", "1", "--scale", "12", "--duration", "60", "--json"]
    rows = []
    for also in (["--order", "first-come"], []):
        cli.run(["simulate", EXCERPT, *flags, *also])
        rows.append(json.loads(capsys.readouterr().out))
    assert [row["order"] for row in rows] == ["first-come", "late-last"]
    assert rows[1]["attainment"] > rows[0]["attainment"] + 0.03


def test_one_run_has_one_start_delay():
    with pytest.raises(cli.CliError, match="one run has one start delay"):
        cli.run(["simulate", EXCERPT, "--start-delay", "5,30"])
