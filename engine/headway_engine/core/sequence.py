"""One admitted request while it is in flight: its tokens, how many of them are in the KV cache, and in which blocks.

    prefill:  num_computed < prefill_end   chunks of known tokens, as the token budget allows
    decode:   num_computed == len(tokens) - 1   one token a step

`prefill_end` is the prompt's length at first. A preempted sequence keeps its tokens and loses its blocks, so `prefill_end`
becomes the number of tokens it had: it recomputes all of them and goes on where it was.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from headway_engine.core.batch import Careful, Chunk
from headway_engine.core.blocks import BlockPool, Prefix
from headway_engine.core.request import Finished, FinishReason, Priority, Request


class Phase(Enum):
    """Where a sequence is."""

    WAITING = "waiting"  # holds no blocks
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Ends:
    """Where every sequence of an engine ends: prompt and answer together at `max_len` tokens, an answer at a token of `eos`."""

    max_len: int
    eos: frozenset[int]


@dataclass(slots=True, eq=False)
class Sequence:
    """The scheduler's record of a request.

    Attributes:
        sequence_id: also the order in which they came here.
        request: as admitted, with `prompt_ids`.
        seed: of its random stream.
        plain: its tokens are drawn without the host's help.
        stop_ids: token ids that end it.
        max_len: prompt and answer together never exceed it.
        tokens: prompt and answer so far.
        prefill_end: tokens to compute before the next one is sampled.
        workload_class: the request's own, or the default one.
        priority: the class that it is served as: its own, or a better one after a long wait.
        class_since_s: when it came into that class.
        late: its first token will not be in time, so others of its class go first.
        num_computed: tokens whose keys and values are in the cache.
        cached_tokens: prompt tokens that were in the prefix cache when it was first admitted.
        prefix: what stands for its registered blocks in the prefix cache.
        num_registered: blocks that are registered there, from the first one on.
        blocks: KV blocks, enough for `num_computed` tokens and those of the step in flight.
        started_s: when its first prefill step began.
        first_token_s: when its first token came; survives preemption, so that it counts once.
        last_token_s: when its latest token came.
    """

    sequence_id: int
    request: Request
    seed: int
    plain: bool
    stop_ids: frozenset[int]
    max_len: int
    tokens: list[int]
    prefill_end: int
    workload_class: Priority
    priority: Priority
    class_since_s: float
    phase: Phase = Phase.WAITING
    num_computed: int = 0
    cached_tokens: int | None = None
    prefix: Prefix = ""
    num_registered: int = 0
    blocks: list[int] = field(default_factory=list)
    started_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float = 0.0
    late: bool = False
    _table: tuple[int, ...] = ()

    @classmethod
    def of(cls, request: Request, sequence_id: int, seed: int, kind: Priority, ends: Ends) -> Self:
        """The record of a new arrival; `kind`: its class when it names none."""
        sampling, prompt_len = request.sampling, len(request.prompt_ids)
        stop_ids, longest = frozenset(sampling.stop_token_ids), ends.max_len
        own = kind if request.priority is None else request.priority
        return cls(
            sequence_id=sequence_id,
            request=request,
            seed=seed,
            plain=sampling.plain,
            stop_ids=stop_ids if sampling.ignore_eos else stop_ids | ends.eos,
            max_len=longest if sampling.max_tokens is None else min(longest, prompt_len + sampling.max_tokens),
            tokens=list(request.prompt_ids),
            prefill_end=prompt_len,
            workload_class=own,
            priority=own,
            class_since_s=request.arrival_s,
            prefix=request.cache_salt,
        )

    @property
    def rank(self) -> tuple[int, float, int]:
        """The order of service: class first, then arrival. The highest rank is preempted first."""
        return (self.priority, self.request.arrival_s, self.sequence_id)

    @property
    def decoding(self) -> bool:
        """Whether the next step computes just the token sampled last."""
        return self.num_computed >= self.prefill_end

    @property
    def backlog(self) -> int:
        """Tokens still to be prefilled."""
        return max(0, self.prefill_end - self.num_computed)

    @property
    def movable(self) -> bool:
        """Whether another engine may have it: batch work of which nothing was computed."""
        return self.workload_class is Priority.BATCH and self.started_s is None

    @property
    def in_slack(self) -> bool:
        """Whether it is batch work that has to wait for the slack of better classes: it has not moved up."""
        return self.priority is Priority.BATCH

    def move_up(self, now: float) -> None:
        """Count as one of the next better class from now on."""
        self.priority = Priority(self.priority - 1)
        self.class_since_s = now

    def chunk(self, num_tokens: int, in_flight: int = 0) -> Chunk:
        """The next `num_tokens` tokens to compute, behind those that are being computed."""
        start, known = self.num_computed + in_flight, len(self.tokens)
        end = start + num_tokens
        if len(self._table) != len(self.blocks):  # a tuple per step would cost O(context); blocks only ever append
            self._table = tuple(self.blocks)
        return Chunk(
            sequence_id=self.sequence_id,
            token_ids=(self.tokens[-1],) if start == known - 1 else tuple(self.tokens[start:end]),
            start=start,
            block_table=self._table,
            sample=end == known,
            sampling=self.request.sampling,
            seed=self.seed,
            num_sampled=known - len(self.request.prompt_ids),
            careful=self._careful() if end == known and not self.plain else None,
        )

    def take_blocks(self, shared: list[int], own: list[int], prefix: Prefix, block_size: int) -> None:
        """Begin with blocks whose tokens are known, and others behind them."""
        self.blocks = shared + own
        self.prefix, self.num_registered = prefix, len(shared)
        self.num_computed = len(shared) * block_size
        if self.cached_tokens is None:
            self.cached_tokens = self.num_computed

    def register(self, pool: BlockPool) -> None:
        """Let others find the blocks that are full by now."""
        if not pool.caching:
            return
        size = pool.block_size
        for index in range(self.num_registered, self.num_computed // size):
            tokens = tuple(self.tokens[index * size : (index + 1) * size])
            self.prefix = pool.register(self.blocks[index], self.prefix, tokens)
            self.num_registered += 1

    def forget_cache(self) -> list[int]:
        """Drop what was computed; returns the blocks to give back."""
        blocks, self.blocks, self._table = self.blocks, [], ()
        self.num_computed = self.num_registered = 0
        self.prefix = self.request.cache_salt
        self.prefill_end = len(self.tokens)
        return blocks

    def accept(self, token: int) -> FinishReason | None:
        """Take in a sampled token; returns why it is the last one, or None when it is not.

        Raises:
            ConstraintError: the request's constraint does not allow it, or has met a limit.
        """
        self.tokens.append(token)
        if token in self.stop_ids:
            return FinishReason.STOP
        constraint = self.request.constraint
        if constraint is not None:
            constraint.advance(token)
            if constraint.complete:
                return FinishReason.STOP
        if len(self.tokens) >= self.max_len:
            return FinishReason.LENGTH
        return None

    def finished(self, reason: FinishReason, now: float, error: str) -> Finished:
        """The figures of the ended request."""
        arrival = self.request.arrival_s
        prompt_tokens = len(self.request.prompt_ids)
        waited_until = now if self.started_s is None else self.started_s
        return Finished(
            reason=reason,
            output_ids=tuple(self.tokens[prompt_tokens:]),
            prompt_tokens=prompt_tokens,
            queue_ms=(waited_until - arrival) * 1000,
            ttft_ms=0.0 if self.first_token_s is None else (self.first_token_s - arrival) * 1000,
            cached_tokens=self.cached_tokens or 0,
            truncated_tokens=self.request.truncated_tokens,
            error=error,
        )

    def _careful(self) -> Careful:
        request = self.request
        tokens = tuple(self.tokens) if request.sampling.penalized else ()
        return Careful(tokens, len(request.prompt_ids), request.constraint)
