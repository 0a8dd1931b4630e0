"""Tuned limits beside the best fixed ones, one engine, in the simulator: `python benchmarks/tuner_case.py [SEEDS]`.

Three mixes follow each other, 300 s each, Poisson: chat, prompts of code, long answers, and chat again. Every pair of fixed
limits runs through the same arrivals; the best one of a regime is found in hindsight, for that regime alone. Ours begins at
the baseline of 64 sequences and 1,024 tokens and may go to 256 and 8,192. Good is a request whose TTFT and mean time between
tokens keep the targets of the class interactive; the first 30 s after each change do not count. Prints a JSON line a regime
and seed.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from headway_cli.simulate import engines
from headway_planner.model import BatchLimits
from headway_planner.rivals.catalog import CATALOG, Context
from headway_planner.rivals.static import Static
from headway_planner.sim.chance import Chance
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, Arrival, Rank
from headway_planner.sim.outcome import Outcome, tpot_ms, ttft_ms
from headway_planner.sim.policy import Policy
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Bounds

SPAN_S, SETTLE_S = 300.0, 30.0
# name, requests a second, prompt tokens, answer tokens: each near what one engine sustains
REGIMES = (
    ("chat", 19.0, 1155, 211),
    ("code", 16.0, 2048, 28),
    ("answers", 9.5, 300, 800),
    ("chat again", 19.0, 1155, 211),
)
SEQS, TOKENS = (16, 32, 64, 128, 256), (512, 1024, 2048, 4096, 8192)
BASELINE = BatchLimits(64, 1024)


def arrivals(seed: int) -> list[Arrival]:
    """The regimes; lengths spread over half to one and a half of their means."""
    chance, found = Chance(seed), []
    for number, (_, rate, inputs, outputs) in enumerate(REGIMES):
        at_s = number * SPAN_S + chance.exponential(1 / rate)
        while at_s < (number + 1) * SPAN_S:
            prompt, answer = (round(mean * (0.5 + chance.uniform())) for mean in (inputs, outputs))
            found.append(Arrival(at_s, prompt, answer, Rank.INTERACTIVE))
            at_s += chance.exponential(1 / rate)
    return found


def good(outcome: Outcome) -> list[float]:
    """Share of good requests of each regime."""
    edges = [number * SPAN_S for number in range(len(REGIMES) + 1)]
    return [_share(outcome, begin + SETTLE_S, end) for begin, end in pairwise(edges)]


def _share(outcome: Outcome, begin_s: float, end_s: float) -> float:
    mine = [job for job in outcome.jobs if begin_s <= job.arrival_s < end_s]
    kept = [
        ttft_ms(job) <= TTFT_TARGET_MS[Rank.INTERACTIVE] and tpot_ms(job) <= ITL_TARGET_MS[Rank.INTERACTIVE]
        for job in mine
    ]
    return sum(kept) / len(kept)


def run(load: Sequence[Arrival], limits: BatchLimits, seed: int, *, tuned: bool) -> list[float]:
    """One engine through all regimes."""
    model = engines.load(engines.BUILT_IN)
    setup = Setup(model, limits, initial=1, max_replicas=1)
    bounds = Bounds(1, 1, SEQS[-1], TOKENS[-1], limits)
    context = Context(setup, bounds, load, Rank.INTERACTIVE)
    policy: Policy = CATALOG["headway"].make(context, 0.0) if tuned else Static(bounds, 1)
    return good(simulate(setup, load, policy, seed))


def rows(seed: int) -> Iterator[dict[str, object]]:
    """Ours, the best fixed limits in hindsight, and the baseline untuned."""
    load = arrivals(seed)
    pairs = [BatchLimits(seqs, tokens) for seqs in SEQS for tokens in TOKENS if tokens >= seqs]
    fixed = {limits: run(load, limits, seed, tuned=False) for limits in pairs}
    ours = run(load, BASELINE, seed, tuned=True)
    for number, (name, *_) in enumerate(REGIMES):
        best = max(pairs, key=lambda one: fixed[one][number])
        yield {
            "case": "tuner",
            "regime": name,
            "seed": seed,
            "headway": round(ours[number], 4),
            "best_fixed": round(fixed[best][number], 4),
            "best_limits": [best.seqs, best.tokens],
            "baseline": round(fixed[BASELINE][number], 4),
            "worst_fixed": round(min(one[number] for one in fixed.values()), 4),
        }


def main(seeds: int) -> None:
    """Print them."""
    for seed in range(seeds):
        for row in rows(seed):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
