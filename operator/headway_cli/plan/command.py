"""`headway plan`: reads shape, load and prices; prints the advisor's table."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from headway_cli.errors import CliError
from headway_cli.simulate import engines, traces
from headway_planner.advisor import Demand, Hardware, Row, assess, assess_engine
from headway_planner.capacity import Mix
from headway_planner.roofline import GPUS, SHAPES, Shape
from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, Rank


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="NAME", help=f"one of {', '.join(SHAPES)}")
    model.add_argument("--shape", type=Path, metavar="FILE", help="a model's config.json")
    model.add_argument(
        "--engine-file", type=Path, metavar="FILE", help="measured engines (bench calibrate) instead of computed ones"
    )
    ranks = [rank.name.lower() for rank in Rank]
    parser.add_argument("--class", dest="rank", choices=ranks, default="interactive", help="(default: interactive)")
    parser.add_argument("--rate", type=float, metavar="R", help="requests per second")
    parser.add_argument("--input", type=int, metavar="N", help="mean prompt, tokens")
    parser.add_argument("--output", type=int, metavar="N", help="mean answer, tokens")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="rate and lengths of a trace, planned as one class")
    parser.add_argument(
        "--prices",
        action="append",
        default=[],
        metavar="GPU=USD",
        help="per GPU-hour, of a GPU or measured engine; repeat it",
    )
    parser.add_argument("--interconnect", choices=["nvlink", "pcie"], default="nvlink", help="(default: nvlink)")
    parser.add_argument("--json", action="store_true", help="print one JSON line a row")


def command(given: argparse.Namespace) -> int:
    """Print the table and a recommendation."""
    if given.model and given.model not in SHAPES:
        raise CliError(f"--model: no model {given.model!r}; there are: {', '.join(SHAPES)}; or give --shape FILE")
    demand = _demand(given, Rank[given.rank.upper()])
    if given.engine_file:
        what, rows = str(given.engine_file), _measured(given, demand)
    else:
        shape = SHAPES[given.model] if given.model else _shape(given.shape)
        what, rows = shape.name, _computed(given, shape, demand)
    if not any(row.replicas for row in rows):
        why = "; ".join(sorted({row.binds for row in rows}))
        raise CliError(f"no configuration serves {what} with --class {given.rank} at these lengths: {why}")
    if given.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
        return 0
    _print(rows)
    if given.engine_file:
        print(f"Steps as in {given.engine_file}; p95 TTFT is a queueing formula and was not validated under load.")
        return 0
    for gpu in GPUS.values():
        print(f"{gpu.name}: {gpu.source}")
    print("Estimates: p95 TTFT is a queueing formula and was not validated under load; PCIe figures are assumed.")
    return 0


def _computed(given: argparse.Namespace, shape: Shape, demand: Demand) -> list[Row]:
    prices = dict(_price(text, {name.upper(): name for name in GPUS}) for text in given.prices)
    return [
        assess(shape, Hardware(gpu, tp, given.interconnect, prices.get(gpu.name)), demand)
        for gpu in GPUS.values()
        for tp in (1, 2, 4, 8)
    ]


def _measured(given: argparse.Namespace, demand: Demand) -> list[Row]:
    models = engines.load_all(given.engine_file)
    prices = dict(_price(text, {one.name.upper(): one.name for one in models}) for text in given.prices)
    return [assess_engine(one, demand, prices.get(one.name)) for one in models]


def _demand(given: argparse.Namespace, rank: Rank) -> Demand:
    targets = TTFT_TARGET_MS[rank], ITL_TARGET_MS[rank]
    if given.trace:
        if given.rate or given.input or given.output:
            raise CliError("--trace brings rate and lengths: leave --rate, --input and --output out")
        found = traces.read(given.trace, rank)
        prompts = sorted(one.inputs for one in found)
        mix = Mix(sum(prompts) / len(found), sum(one.outputs for one in found) / len(found))
        rate = len(found) / max(1.0, found[-1].at_s)
        return Demand(rate, mix, *targets, prompts[int(0.95 * len(prompts))])
    for flag in ("rate", "input", "output"):
        value = getattr(given, flag)
        if value is None or not 0 < value <= 1e6:
            raise CliError(f"--{flag} must be above 0 and at most 1000000 (or give --trace), got {value}")
    return Demand(given.rate, Mix(given.input, given.output), *targets)


def _print(rows: list[Row]) -> None:
    width = max(6, *(len(row.gpu) + 1 for row in rows))
    print(
        f"{'GPU':{width}}{'TP':>3}{'replicas':>10}{'TTFT p95':>10}{'ITL p95':>9}{'tokens/s':>10}{'USD/Mtok':>10}  binds"
    )
    for row in rows:
        cells = (_cell(row.ttft_p95_ms, 1), _cell(row.itl_p95_ms, 1), _cell(row.tokens_per_s, 0))
        print(
            f"{row.gpu:{width}}{row.tp:>3}{row.replicas or '-':>10}{cells[0]:>10}{cells[1]:>9}{cells[2]:>10}"
            f"{_cell(row.usd_per_million, 3):>10}  {row.binds}"
        )
    priced = [row for row in rows if row.usd_per_million is not None]
    if priced:
        best = min(priced, key=lambda row: row.usd_per_million or 0.0)
        print(
            f"Take {best.replicas} x {best.gpu} TP{best.tp}: least cost, {best.usd_per_million:.3f} USD a million tokens."
        )
    else:
        best = min((row for row in rows if row.replicas), key=lambda row: row.replicas * row.tp)
        print(
            f"Take {best.replicas} x {best.gpu} TP{best.tp}: fewest GPUs ({best.replicas * best.tp}); no --prices given."
        )


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


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
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise CliError(f"--shape {path}: not a readable config.json of a dense decoder: {error!r}") from None
    if min(hidden, heads, shape.layers, shape.kv_heads, shape.head_dim, shape.ffn, shape.vocab) < 1:
        raise CliError(f"--shape {path}: every size must be at least 1")
    return shape
