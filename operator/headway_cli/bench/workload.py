"""The arrivals of an open-loop test: pure, and the same for every engine that is measured.

For each arrival in turn three numbers are drawn from one generator: the gap to the arrival before it (exponential), the
input length and the output length (log-normal, cut). Token ids come from generators of their own, one per request, so
they do not disturb the order of the draws.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """What to send.

    Attributes:
        rate_per_s: mean arrivals per second.
        duration_s: arrivals later than this are not sent.
        seed: of the one generator.
        input_mu: mean of the logarithm of the input length.
        input_sigma: its standard deviation.
        output_mu: mean of the logarithm of the output length.
        output_sigma: its standard deviation.
        min_input: shortest input, tokens.
        max_input: longest input, tokens.
        min_output: shortest output, tokens.
        max_output: longest output, tokens.
    """

    rate_per_s: float
    duration_s: float
    seed: int = 0
    input_mu: float = 6.0
    input_sigma: float = 0.8
    output_mu: float = 5.0
    output_sigma: float = 0.7
    min_input: int = 16
    max_input: int = 2048
    min_output: int = 8
    max_output: int = 1024


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it arrives after the start, and its lengths in tokens."""

    index: int
    at_s: float
    input_tokens: int
    output_tokens: int


def arrivals(workload: Workload) -> list[Arrival]:
    """The whole schedule."""
    rng = random.Random(workload.seed)  # noqa: S311 - a workload, not a secret
    result: list[Arrival] = []
    at_s = 0.0
    while True:
        at_s += rng.expovariate(workload.rate_per_s)
        if at_s > workload.duration_s:
            return result
        drawn_input = rng.lognormvariate(workload.input_mu, workload.input_sigma)
        drawn_output = rng.lognormvariate(workload.output_mu, workload.output_sigma)
        result.append(
            Arrival(
                len(result),
                at_s,
                _cut(drawn_input, workload.min_input, workload.max_input),
                _cut(drawn_output, workload.min_output, workload.max_output),
            )
        )


def fit(schedule: Sequence[Arrival], max_model_len: int) -> tuple[list[Arrival], int]:
    """The schedule with inputs cut to what the model's context leaves, and how many had to be cut."""
    fitted = [
        Arrival(
            arrival.index,
            arrival.at_s,
            max(1, min(arrival.input_tokens, max_model_len - min(arrival.output_tokens, max_model_len - 1))),
            min(arrival.output_tokens, max_model_len - 1),
        )
        for arrival in schedule
    ]
    return fitted, sum(before != after for before, after in zip(schedule, fitted, strict=True))


def prompt_ids(seed: int, arrival: Arrival, vocab_size: int) -> list[int]:
    """Random valid token ids; equal for equal arguments."""
    rng = random.Random(f"{seed}/{arrival.index}")  # noqa: S311 - a workload, not a secret
    return rng.choices(range(vocab_size), k=arrival.input_tokens)


def _cut(value: float, low: int, high: int) -> int:
    return max(low, min(high, int(value)))
