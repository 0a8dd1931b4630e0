"""The step after the one being made, as far as it is known already, so that an executor can launch it behind this one.

While prompts are left over, nearly all of the next step is known: which sequences go on decoding (their tokens are not: the
device has them first), and which parts of which prompts fill its budget. Not known is who will have ended by then, and who
will have come. So

    the next step computes what was foreseen, without those that ended, were aborted or gave way meanwhile
    newcomers, and limits that changed, take effect in the step after it

What was launched for a sequence that has gone is computed in vain. That is safe. It wrote behind what the sequence had computed,
so to blocks that it alone held and that the prefix cache does not know: blocks are registered, and found by others, only when
`commit` has taken their tokens in. Whoever is given those blocks is launched later on the same device, and writes before it
reads. For the same reason `BlockPool.forget` after a failed row misses nothing.

A step is foreseen whole or not at all, since what is left out of it would cost a second pass over the weights. It is not
foreseen where a row has to be seen by the host first (`Chunk.careful`), where a decoding sequence lacks its next block or waits
for its turn, and where no prompt would be in it: then the next step is made when this one is over.
"""

from dataclasses import dataclass

from headway_engine.core import batching
from headway_engine.core.batch import UNSEEN, Chunk
from headway_engine.core.cuts import Cut, Rules, cut_prompts
from headway_engine.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class CutStep:
    """A step as it was cut, and what it was cut from.

    Attributes:
        cuts: who computes how much in it.
        chunks: the same for the executor.
        running: all running sequences by id.
        left: their prompt tokens that did not fit.
        backlog: prompt tokens before the step, those of waiting sequences included.
    """

    cuts: list[Cut]
    chunks: list[Chunk]
    running: dict[int, Sequence]
    left: list[Cut]
    backlog: int


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The next step: `cuts` by sequence id, decodes first, and their chunks."""

    cuts: dict[int, Cut]
    chunks: tuple[Chunk, ...]


NOTHING = Foreseen({}, ())


def foresee(step: CutStep, block_size: int, rules: Rules) -> Foreseen:
    """What follows `step`; nothing where it cannot be told."""
    computed = {sequence.sequence_id: num_tokens for sequence, num_tokens in step.cuts}
    if any(one.decoding and key not in computed for key, one in step.running.items()):
        return NOTHING  # it waits for its turn
    decodes: list[Cut] = []
    chunks: list[Chunk] = []
    for (sequence, num_tokens), chunk in zip(step.cuts, step.chunks, strict=True):
        start = chunk.start + num_tokens
        if not chunk.sample or start + 1 >= sequence.max_len:  # the token to come is its last
            continue
        if chunk.careful is not None or start >= len(chunk.block_table) * block_size:
            return NOTHING
        decodes.append(Cut(sequence, 1))
        chunks.append(chunk._replace(token_ids=UNSEEN, start=start, num_sampled=chunk.num_sampled + 1))
    backlog = step.backlog - sum(num_tokens for sequence, num_tokens in step.cuts if not sequence.decoding)
    room = batching.step_tokens(rules.limits, backlog, len(decodes)) - len(decodes)
    prompts = cut_prompts(step.left, [sequence for sequence, _ in decodes], room, rules)
    chunks += [sequence.chunk(count, in_flight=computed.get(sequence.sequence_id, 0)) for sequence, count in prompts]
    if not prompts or any(chunk.careful is not None for chunk in chunks):
        return NOTHING
    return Foreseen({one.sequence.sequence_id: one for one in (*decodes, *prompts)}, tuple(chunks))
