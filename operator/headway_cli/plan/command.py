"""`headway plan`: reads shape, load and prices; prints the advisor's table, or what it rests on."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from headway_cli.errors import CliError
from headway_cli.plan import claims, load, sources, tables
from headway_cli.simulate import engines
from headway_cli.simulate.arguments import DEADLINE_S
from headway_cli.simulate.runs import MOST_REQUESTS
from headway_planner.advisor import assess, computed
from headway_planner.offer import Engine, Hardware, Row
from headway_planner.roofline import GPUS, SHAPES, Shape
from headway_planner.sim.jobs import Rank
from headway_planner.steps import StepModel
from headway_planner.trial import SHORTEST_S, Trial, enough, poisson, trial, tried

PARALLEL = (1, 2, 4, 8)
MOST_SIZE = 10_000_000  # of a model's dimensions


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="NAME", help=f"one of {', '.join(SHAPES)}")
    model.add_argument("--shape", type=Path, metavar="FILE", help="a model's config.json")
    model.add_argument(
        "--engine-file", type=Path, metavar="FILE", help="measured engines (bench calibrate) instead of computed ones"
    )
    model.add_argument("--claims", action="store_true", help="no plan: common claims beside what the models say")
    ranks = [rank.name.lower() for rank in Rank]
    parser.add_argument("--class", dest="rank", choices=ranks, help="(default: interactive)")
    parser.add_argument("--rate", type=float, metavar="R", help="requests per second")
    parser.add_argument("--input", type=int, metavar="N", help="mean prompt, tokens")
    parser.add_argument("--output", type=int, metavar="N", help="mean answer, tokens")
    parser.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="CLASS=RATE/INPUT/OUTPUT",
        help="one of several classes that share the fleet; repeat it",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="rates and lengths of a trace, each class by its means"
    )
    parser.add_argument(
        "--batch-deadline",
        type=float,
        metavar="S",
        help="batch requests that name no deadline_s must be finished in this time; inf: their first tokens count "
        f"(default: {DEADLINE_S:.0f} beside others)",
    )
    parser.add_argument(
        "--prices",
        action="append",
        default=[],
        metavar="GPU=USD",
        help="per GPU-hour, of a GPU or measured engine; repeat it",
    )
    parser.add_argument("--interconnect", choices=["nvlink", "pcie"], help="of computed engines (default: nvlink)")
    parser.add_argument(
        "--simulate",
        nargs="?",
        const="advised",
        choices=["advised", "all"],
        help="run the load through the advised fleet (or all) in the simulator, beside the estimate",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --simulate (default: 0)")
    parser.add_argument("--sources", action="store_true", help="also each coefficient, its source and its error")
    parser.add_argument("--json", action="store_true", help="print one JSON line a row")


def command(given: argparse.Namespace) -> int:
    """Print the table and a recommendation; with --claims the claims."""
    if given.claims:
        said = claims.findings()
        lines = [json.dumps(_finite({**asdict(one), "differs": one.differs})) for one in said]
        print("\n".join(lines if given.json else tables.claims(said)))
        return 0
    if given.model and given.model not in SHAPES:
        raise CliError(f"--model: no model {given.model!r}; there are: {', '.join(SHAPES)}; or give --shape FILE")
    if given.engine_file and given.interconnect:
        raise CliError("--interconnect is for computed engines; those of --engine-file were measured with theirs")
    planned = load.read(given)
    demand = planned.demand
    arrivals = len(planned.arrivals) or demand.rate * SHORTEST_S
    if given.simulate and arrivals > MOST_REQUESTS:
        raise CliError(f"--simulate: {arrivals:.0f} requests are more than {MOST_REQUESTS}; give a lower rate")
    every = _measured(given) if given.engine_file else _computed(given)
    found = [Option(tried(one, demand, assess(one, demand)), one.model) for one in every]
    feasible = [option for option in found if option.row.replicas]
    if not feasible:
        why = "; ".join(sorted({option.row.binds for option in found}))
        kinds = ", ".join(one.name for one in planned.demand.classes)
        what = given.engine_file or given.model or given.shape
        raise CliError(f"no configuration serves {what} with class {kinds} at these lengths: {why}")
    best = _best(feasible)
    chosen = {"all": feasible, "advised": [best], None: []}[given.simulate]
    options = [replace(one, trials=_trials(one, planned, given.seed) if one in chosen else ()) for one in found]
    lines = _json(options, best.row) if given.json else _text(options, best.row, planned, given)
    if given.sources:
        known = sources.coefficients()
        lines += [json.dumps(asdict(one)) for one in known] if given.json else ["", *tables.sources(known)]
    print("\n".join(lines))
    return 0


@dataclass(frozen=True, slots=True)
class Option:
    """One configuration: its row, the steps behind it, and its simulated runs."""

    row: Row
    model: StepModel
    trials: tuple[Trial, ...] = ()


def _computed(given: argparse.Namespace) -> list[Engine]:
    shape = SHAPES[given.model] if given.model else _shape(given.shape)
    prices = dict(_price(text, {name.upper(): name for name in GPUS}) for text in given.prices)
    return [
        computed(shape, Hardware(gpu, tp, given.interconnect or "nvlink", prices.get(gpu.name)))
        for gpu in GPUS.values()
        for tp in PARALLEL
    ]


def _measured(given: argparse.Namespace) -> list[Engine]:
    models = engines.load_all(given.engine_file)
    prices = dict(_price(text, {one.name.upper(): one.name for one in models}) for text in given.prices)
    return [Engine(one.name, one, price=prices.get(one.name)) for one in models]


def _best(feasible: Sequence[Option]) -> Option:
    """The least cost among those with a price; without prices the fewest GPUs."""
    priced = [one for one in feasible if one.row.usd_per_million is not None]
    if priced:
        return min(priced, key=lambda one: one.row.usd_per_million or 0.0)
    return min(feasible, key=lambda one: one.row.gpus)


def _trials(option: Option, planned: load.Load, seed: int) -> tuple[Trial, ...]:
    """The estimated count in the simulator; when it misses a target also the count that does not, if there is one."""
    arrivals = planned.arrivals or poisson(planned.demand, seed)
    first = trial(option.model, option.row.replicas, planned.demand, arrivals, seed)
    larger = None if first.confirmed else enough(option.model, first, planned.demand, arrivals, seed)
    return (first,) if larger is None else (first, larger)


def _json(options: Sequence[Option], best: Row) -> list[str]:
    return [
        json.dumps(
            _finite(
                {
                    **asdict(one.row),
                    "advised": one.row is best,
                    "simulated": [asdict(run) for run in one.trials],
                }
            )
        )
        for one in options
    ]


def _text(options: Sequence[Option], best: Row, planned: load.Load, given: argparse.Namespace) -> list[str]:
    rows = [one.row for one in options]
    lines = [*tables.rows(rows), *tables.raised(rows), tables.advice(best), *tables.slack(best), tables.parts(best)]
    for one in options:
        if one.trials:
            lines += tables.trials(one.row, planned.demand, one.trials)
    if given.engine_file:
        return [*lines, "", f"Steps as in {given.engine_file}; p95 TTFT is a queueing formula (--simulate tries it)."]
    lines += ["", *(f"{gpu.name}: {gpu.source}" for gpu in GPUS.values())]
    return [
        *lines,
        "Estimates: p95 TTFT is a queueing formula (--simulate tries it); PCIe figures are assumed (--sources).",
    ]


def _finite(value: object) -> object:
    """JSON has no infinity: None stands for it."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _price(text: str, known: Mapping[str, str]) -> tuple[str, float]:
    """Name and price; `known`: the names in capitals, to the names."""
    name, _, amount = text.partition("=")
    try:
        price = float(amount)
    except ValueError:
        price = 0.0
    if name.upper() not in known or not 0 < price < float("inf"):
        raise CliError(f"--prices must be GPU=USD above 0 with a GPU of {', '.join(known.values())}; got {text!r}")
    return known[name.upper()], price


def _shape(path: Path) -> Shape:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        shape = Shape(
            path.parent.name or path.name, hidden, int(raw["num_hidden_layers"]), heads,
            int(raw.get("num_key_value_heads", heads)), int(raw.get("head_dim") or hidden // heads),
            int(raw["intermediate_size"]), int(raw["vocab_size"]), bool(raw.get("tie_word_embeddings", False)),
        )  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as error:
        raise CliError(f"--shape {path}: not a readable config.json of a dense decoder: {error!r}") from None
    sizes = (hidden, heads, shape.layers, shape.kv_heads, shape.head_dim, shape.ffn, shape.vocab)
    if min(sizes) < 1 or max(sizes) > MOST_SIZE:
        raise CliError(f"--shape {path}: every size must be at least 1 and at most {MOST_SIZE}")
    return shape
