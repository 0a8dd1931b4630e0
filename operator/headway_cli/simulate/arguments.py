"""The command line of `headway simulate`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from headway_cli.errors import CliError
from headway_cli.limits import ABOVE_0, NO_BOUND, check
from headway_planner.rivals.catalog import CATALOG, CLAIRVOYANT, OURS, WORK_BOUND
from headway_planner.sim.jobs import Rank

POLICIES = (*CATALOG, WORK_BOUND)
# Flags of one of the two ways to run, which the other one would ignore.
_OF_BENCH, _OF_ONE_RUN = ("trace", "policies", "seeds", "tuned", "jobs"), ("policy", "seed", "target")
_BOUNDS = {
    # flag -> the least and the most
    "jobs": (1, 1024),
    "load": (ABOVE_0, 10_000),
    "scale": (ABOVE_0, 10_000),
    "spread": (0, 86_400),
    "duration": (ABOVE_0, NO_BOUND),
    "max_num_seqs": (1, 4096),
    "max_num_batched_tokens": (1, 262_144),
    "capacity_tokens": (1, 262_144),
    "mtbf_hours": (0, NO_BOUND),
    "noise": (0, 10),
    "scrape_loss": (0, 0.99),
    "batch_share": (0, 0.99),
    "batch_deadline": (ABOVE_0, 1_000_000_000),
    "target": (ABOVE_0, 1_000_000_000),
}
FLEETS = ("pooled", "separate", "both")
LATE_LAST, FIRST_COME = "late-last", "first-come"  # the order in which an engine begins requests
DEADLINE_S = 900.0  # of batch work that is added
MOST_START_DELAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate. `load` replicas of work are made from a smaller trace when `scale` is not given."""

    traces: tuple[Path, ...]
    policies: tuple[str, ...]
    seeds: range
    start_delays_s: tuple[float, ...]
    target: float | None
    tuned: bool
    default_class: Rank
    scale: float | None
    load: float
    spread_s: float
    limit_s: float | None
    engine_file: Path | None
    engine: str | None
    seqs: int
    tokens: int
    tokens_max: int
    mtbf_hours: float
    noise: float
    scrape_loss: float
    json: bool
    jobs: int
    batch_share: float = 0.0
    batch_deadline_s: float | None = None
    batch_fleet: str = "both"
    order: str = LATE_LAST


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "what", metavar="TRACE|bench", help="a trace file; or `bench`: all of --trace, --policies, --seeds"
    )
    many = parser.add_argument_group("bench")
    many.add_argument("--trace", nargs="+", action="extend", type=Path, metavar="FILE", help="trace files")
    many.add_argument("--policies", metavar="A,B", help=f"all (default), or some of: {', '.join(POLICIES)}")
    many.add_argument("--seeds", metavar="A-B", help="first and last seed (default: 0-0)")
    many.add_argument(
        "--tuned", action="store_true", help="also each rival at the best target for the trace, found in hindsight"
    )
    many.add_argument("--jobs", type=int, metavar="N", help="processes; more than one print at the end (default: 1)")
    one = parser.add_argument_group("one run")
    one.add_argument("--policy", choices=POLICIES, metavar="P", help="the policy (default: headway)")
    one.add_argument("--seed", type=int, metavar="N", help="the seed (default: 0)")
    one.add_argument("--target", type=float, metavar="X", help="the policy's target instead of its default")
    parser.add_argument(
        "--start-delay", default="100", metavar="S[,S]", help="median start of a replica; bench: several (default: 100)"
    )
    ranks = [rank.name.lower() for rank in Rank]
    parser.add_argument("--class", dest="rank", choices=ranks, default="interactive", help="of requests that name none")
    parser.add_argument(
        "--scale", type=float, metavar="X", help="times the arrivals (default: up to --load, in whole copies)"
    )
    parser.add_argument(
        "--load", type=float, default=4.0, metavar="N", help="replicas of work to scale up to (default: 4)"
    )
    parser.add_argument(
        "--spread", type=float, default=60.0, metavar="S", help="copies are shifted by up to this (default: 60)"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="only the begin of each trace")
    parser.add_argument("--engine", metavar="NAME", help="of the engine file (default: its first)")
    parser.add_argument(
        "--engine-file", type=Path, metavar="FILE", help="step models (default: those that come with Headway)"
    )
    parser.add_argument("--max-num-seqs", type=int, default=256, metavar="N", help="of every engine (default: 256)")
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=2048, metavar="N", help="of every engine (default: 2048)"
    )
    parser.add_argument(
        "--capacity-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="upper bound of tuning, where it is above --max-num-batched-tokens (default: 8192)",
    )
    parser.add_argument(
        "--mtbf-hours", type=float, default=0.0, metavar="H", help="of a replica (default: no failures)"
    )
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="X", help="log-normal spread of gauges (default: 0)"
    )
    parser.add_argument(
        "--scrape-loss", type=float, default=0.0, metavar="X", help="share of scrapes lost (default: 0)"
    )
    parser.add_argument(
        "--batch-share",
        type=float,
        default=0.0,
        metavar="X",
        help="add batch work, this share of all work (default: 0)",
    )
    parser.add_argument(
        "--batch-deadline",
        type=float,
        metavar="S",
        help="batch requests that name no deadline_s must be finished in this time (default: added ones in 900)",
    )
    parser.add_argument(
        "--batch-fleet",
        choices=FLEETS,
        help="rivals serve requests with a deadline in the same fleet (default of one run), separate, or both (of bench)",
    )
    parser.add_argument(
        "--order",
        choices=(LATE_LAST, FIRST_COME),
        default=LATE_LAST,
        help="who begins first in an engine: who can still be inside the TTFT target, as in ours (default), or who came first",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line a run")


def parse(given: argparse.Namespace) -> Options:
    """The flags as options.

    Raises:
        CliError: a value makes no sense; the message names the flag.
    """
    bench = given.what == "bench"
    for name in _OF_ONE_RUN if bench else _OF_BENCH:
        value = getattr(given, name)
        if value is not None and value is not False:
            other = "one run; bench has --policies and --seeds" if bench else "bench; one run has --policy and --seed"
            raise CliError(f"--{name} is for {other}")
    if bench and not given.trace:
        raise CliError("simulate bench needs --trace FILE...")
    delays = _start_delays(given.start_delay)
    if not bench and len(delays) > 1:
        raise CliError("--start-delay: one run has one start delay; bench takes several")
    check(given, _BOUNDS)
    policy = given.policy or OURS
    if given.target is not None and not (policy in CATALOG and CATALOG[policy].sweep):
        raise CliError(f"--target: policy {policy} has none")
    return Options(
        traces=tuple(given.trace) if bench else (Path(given.what),),
        policies=_policies("all" if given.policies is None else given.policies) if bench else (policy,),
        seeds=_seeds("0" if given.seeds is None else given.seeds)
        if bench
        else range(given.seed or 0, (given.seed or 0) + 1),
        start_delays_s=delays,
        target=given.target,
        tuned=given.tuned,
        default_class=Rank[given.rank.upper()],
        scale=given.scale,
        load=given.load,
        spread_s=given.spread,
        limit_s=given.duration,
        engine_file=given.engine_file,
        engine=given.engine,
        seqs=given.max_num_seqs,
        tokens=max(given.max_num_batched_tokens, given.max_num_seqs),
        tokens_max=max(given.capacity_tokens, given.max_num_batched_tokens, given.max_num_seqs),
        mtbf_hours=given.mtbf_hours,
        noise=given.noise,
        scrape_loss=given.scrape_loss,
        json=given.json,
        jobs=given.jobs or 1,
        batch_share=given.batch_share,
        batch_deadline_s=given.batch_deadline,
        batch_fleet=given.batch_fleet or ("both" if bench else "pooled"),
        order=given.order,
    )


def _policies(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(name for name in POLICIES if name != "static")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        raise CliError(f"--policies: no policy {', '.join(unknown) or 'given'}; there are: {', '.join(POLICIES)}")
    # Ours first: rivals are set to match it. The bounds last: the others' results do not change them.
    return tuple(sorted(names, key=lambda name: (name in (CLAIRVOYANT, WORK_BOUND), name != OURS)))


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        seeds = range(int(first), int(last or first) + 1)
    except ValueError:
        raise CliError(f"--seeds must be A-B or A, got {text!r}") from None
    if not seeds:
        raise CliError(f"--seeds: {text} holds no seed")
    return seeds


def _start_delays(text: str) -> tuple[float, ...]:
    try:
        delays = tuple(float(one) for one in text.split(","))
    except ValueError:
        raise CliError(f"--start-delay must be seconds, several with commas between, got {text!r}") from None
    if not all(0 < one <= MOST_START_DELAY_S for one in delays):
        raise CliError(f"--start-delay must be above 0 and at most {MOST_START_DELAY_S}, got {text}")
    return delays
