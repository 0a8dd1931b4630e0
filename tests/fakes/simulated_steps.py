"""The scheduler on a clock that each step moves by its price, and what its clients see."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from headway_engine.core.batch import Batch
from headway_engine.core.blocks import BlockPool
from headway_engine.core.limits import Limits
from headway_engine.core.request import Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler

# A step as a GPU has it: a floor, a price for each decode and one for each prompt token.
FLOOR_MS, DECODE_MS, PROMPT_TOKEN_MS = 4.0, 0.02, 0.05


@dataclass
class Stream:
    """What a client saw."""

    arrival_s: float
    token_times_s: list[float] = field(default_factory=list)
    done: bool = False

    @property
    def ttft_ms(self) -> float:
        return (self.token_times_s[0] - self.arrival_s) * 1000

    @property
    def worst_gap_ms(self) -> float:
        return self.worst_gap_since_ms(0.0)

    def worst_gap_since_ms(self, moment_s: float) -> float:
        """The longest gap that ended later than at this moment."""
        return max((b - a for a, b in pairwise(self.token_times_s) if b > moment_s), default=0.0) * 1000


class Simulation:
    """Requests in, a clock that runs by the price of each step, streams out."""

    def __init__(self, limits: Limits, blocks: int = 10_000, square_ms: float = 0.0) -> None:
        """`square_ms`: of each pair of prompt tokens that look at each other, twice counted; see `Batch.prompt_squares`."""
        self._square_ms = square_ms
        self.scheduler = Scheduler(BlockPool(blocks, 16, caching=False), limits, 8192, frozenset())
        self.now = 0.0
        self.streams: dict[str, Stream] = {}
        self.groups: list[frozenset[str]] = []

    def add(self, name: str, prompt: int, output: int, priority: Priority | None = Priority.INTERACTIVE) -> Stream:
        request = Request(
            RequestId(name),
            self.now,
            prompt_ids=(1,) * prompt,
            sampling=SamplingParams(max_tokens=output),
            priority=priority,
        )
        self.scheduler.add(request, seed=0)
        self.streams[name] = Stream(self.now)
        return self.streams[name]

    def step(self) -> Batch | None:
        """One step, or the clock moves to the moment at which there is one."""
        batch = self.scheduler.schedule(self.now)
        if batch is None:
            due = self.scheduler.next_due(self.now)
            assert due is not None, "nothing is left to do"
            self.now = max(self.now, due)
            return None
        names = frozenset(str(s.request.request_id) for s in self.scheduler.running())
        if not self.groups or self.groups[-1] != names:
            self.groups.append(names)
        decodes = sum(chunk.num_sampled > 0 for chunk in batch.chunks)
        prompts_ms = PROMPT_TOKEN_MS * batch.prompt_tokens + self._square_ms * batch.prompt_squares
        self.now += (FLOOR_MS + DECODE_MS * decodes + prompts_ms) / 1000
        for event in self.scheduler.commit(batch, tuple(1 for chunk in batch.chunks if chunk.sample), self.now):
            stream = self.streams[event.request_id]
            stream.token_times_s += [self.now] * len(event.token_ids)
            stream.done |= event.finished is not None
        return batch

    def run_until(self, ended: Callable[[], bool], arrivals: Iterable[tuple[float, Callable[[], object]]] = ()) -> None:
        """Steps until `ended`; each arrival comes when the clock has reached its time."""
        pending = sorted(arrivals, key=lambda one: one[0])
        while pending or not ended():
            idle = self.scheduler.next_due(self.now) is None
            if pending and (idle or pending[0][0] <= self.now):
                at, arrive = pending.pop(0)
                self.now = max(self.now, at)
                arrive()
            else:
                self.step()

    def run(self, arrivals: Iterable[tuple[float, Callable[[], object]]] = ()) -> None:
        self.run_until(lambda: all(stream.done for stream in self.streams.values()), arrivals)
