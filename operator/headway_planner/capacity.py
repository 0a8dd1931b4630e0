"""What one engine sustains: the request rate at which its step model still keeps the time between tokens.

In a steady state with B sequences decoding, prefill takes the share r * p of the time (r requests a second, p seconds of
prefill each), and the rest makes decode steps of d(B): r * out = B * (1 - r * p) / d(B), so r = B / (d(B) * out + B * p),
and a token takes d(B) / (1 - r * p) on average.
"""

from dataclasses import dataclass

from headway_planner.model import BatchLimits
from headway_planner.steps import StepCost

HALF_LIFE_S = 120.0  # of what mean lengths rest on
NEWEST = 1000.0  # requests that tell a change of the lengths; with lengths as uneven as 2 to 1 their mean is 6 % off
PER_RUNNING = 4.0  # and at least so many for each that runs: the first answers of a burst to end are its short ones
SHIFT = 1.5  # so many times as long answers, or as short ones, are other requests
HELD_S = 60.0  # of what the mean context rests on
ENOUGH_REQUESTS = 4.0  # before their mean lengths are believed
GIVE_UP = 4.0  # a target that a sequence alone misses by a quarter is replaced by twice what that sequence takes

Sums = tuple[float, float, float, float]  # arrivals, their prompt tokens, finished, their answers' tokens


@dataclass(frozen=True, slots=True)
class Mix:
    """Mean lengths of the requests, tokens.

    Attributes:
        inputs, outputs: per request.
        held: measured KV tokens of a running sequence; 0: not known. It is more than the lengths say when a few answers are
            long, because those are there for longer than they are frequent.
    """

    inputs: float
    outputs: float
    held: float = 0.0

    @property
    def context(self) -> float:
        """KV tokens of a running sequence."""
        return max(self.held, self.inputs + self.outputs / 2)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one engine sustains: requests per second, sequences in the batch then, and the time between tokens.

    Attributes:
        fixed_s, each_s: rate = batch / (fixed_s + each_s * batch), for smaller batches as well.
    """

    rate: float
    batch: float
    itl_ms: float
    fixed_s: float = 0.0
    each_s: float = 0.0

    def slack_s(self, load: float) -> float:
        """How long an engine under `load` (share of `rate`) takes in what it does not finish: its free slots over the rate."""
        busy = min(max(load, 0.0), 1.0)
        fixed = max(self.fixed_s, 1e-9)
        taken = busy * self.batch * fixed / (fixed + self.each_s * self.batch * (1 - busy))
        return (self.batch - taken) / self.rate


def prefill_s(model: StepCost, mix: Mix, budget: int) -> float:
    """Engine time that the prefill of a mean request costs beside decoding sequences."""
    prompt, total, done = max(1, round(mix.inputs)), 0.0, 0
    while done < prompt:
        chunk = min(budget, prompt - done)
        total += model.prefill_token_ms * chunk + model.prefill_square_ms * chunk * (2 * done + chunk)
        done += chunk
    return (total + model.prompt_end_ms) / 1000


def sustained(model: StepCost, mix: Mix, limits: BatchLimits, itl_target_ms: float) -> Capacity:
    """The highest rate that one engine keeps inside the ITL target, its KV cache and its limits."""
    prefill = prefill_s(model, mix, limits.tokens)
    context = mix.context
    most = min(limits.seqs, max(1, int(0.9 * model.kv_tokens / max(mix.held, mix.inputs + mix.outputs))))
    alone, alone_ms = rate, itl_ms = _at(model, mix, 1, prefill, context)
    aim_ms = _worked_for(itl_target_ms, alone_ms)
    batch, low, high = 1, 1, most
    while low <= high:
        middle = (low + high) // 2
        found = _at(model, mix, middle, prefill, context)
        if found[1] <= aim_ms:
            (rate, itl_ms), batch, low = found, middle, middle + 1
        else:
            high = middle - 1
    # The step is close to a line in the batch, so two points of it say what smaller batches do.
    each = (batch / rate - 1 / alone) / max(1.0, batch - 1)
    return Capacity(rate, batch, itl_ms, fixed_s=1 / alone - each, each_s=each)


def _worked_for(target_ms: float, alone_ms: float) -> float:
    """The target that is worked for: the one given, or a looser one where a sequence alone is already over it.

    No count of replicas reaches such a target. Keeping one sequence per engine for its sake would only make the fleet huge,
    so the further it is out of reach, the less it is worked for; there is no jump at the border.
    """
    over = alone_ms / target_ms - 1
    return target_ms if over <= 0 else alone_ms * (1 + GIVE_UP * over)


def _at(model: StepCost, mix: Mix, batch: int, prefill: float, context: float) -> tuple[float, float]:
    """Requests per second, and milliseconds between tokens."""
    step = model.decode_ms(batch, batch * context) / 1000
    rate = batch / (step * max(1.0, mix.outputs) + batch * prefill)
    return rate, 1000 * step / max(1e-9, 1 - rate * prefill)


def renewed(before: tuple[Sums, Sums], grown: Sums, running: float, span_s: float) -> tuple[Sums, Sums]:
    """The sums of minutes and of the newest requests, with what came and was finished in `span_s` seconds.

    Means of minutes are calm. But where other requests begin to come, three times as many and a third as long, each is counted
    with the answer of the old ones: a burst that is none. So where the newest answers have another length, what is older is
    forgotten. Where few requests come the newest ones reach back further than the minutes, and say nothing.
    """
    (minutes, newest), faded = before, 0.5 ** (span_s / HALF_LIFE_S)
    most = max(NEWEST, PER_RUNNING * running)
    slow = _plus(minutes, grown, (faded, faded))
    quick = _plus(newest, grown, (_kept(newest[0], most - grown[0]), _kept(newest[2], most - grown[2])))
    known = slow[2] > quick[2] >= NEWEST / 2 and min(slow[3], quick[3]) > 0
    ratio = quick[3] * slow[2] / (slow[3] * quick[2]) if known else 1.0
    return (quick if max(ratio, 1 / ratio) > SHIFT else slow), quick


def _plus(before: Sums, grown: Sums, kept: tuple[float, float]) -> Sums:
    came, ended = kept
    return (
        came * before[0] + grown[0],
        came * before[1] + grown[1],
        ended * before[2] + grown[2],
        ended * before[3] + grown[3],
    )


def _kept(count: float, room: float) -> float:
    """The share of so many requests that there is room for; 0..1."""
    return min(1.0, max(0.0, room) / count) if count > 0 else 1.0


def mean_mix(sums: Sums, before: Mix | None, held: float) -> Mix | None:
    """The mean request; None while too few were seen."""
    arrivals, inputs, finished, outputs = sums
    if before is None and (arrivals < ENOUGH_REQUESTS or finished < ENOUGH_REQUESTS):
        return None
    return Mix(
        inputs / arrivals if arrivals >= 1 or before is None else before.inputs,
        max(1.0, outputs / finished) if finished >= 1 or before is None else before.outputs,
        held,
    )


def held_tokens(before: Mix | None, kv_used: float, running: float, span_s: float) -> float:
    """Mean KV tokens of a running sequence, smoothed; 0: not known."""
    known = before.held if before is not None else 0.0
    if running < 1 or kv_used <= 0:
        return known
    seen = kv_used / running
    return seen if known == 0 else known + (seen - known) * min(1.0, span_s / HELD_S)


def token_ms(model: StepCost, mix: Mix, limits: BatchLimits, itl_target_ms: float) -> float:
    """Engine time of one token of an answer, at the batch that an engine sustains."""
    held = sustained(model, mix, limits, itl_target_ms)
    return model.decode_ms(round(held.batch), held.batch * mix.context) / held.batch
