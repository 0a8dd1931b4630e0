"""What the advisor is asked, and what it offers: the load by class, the engines that could serve it, and a row for each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headway_planner.capacity import Mix
from headway_planner.roofline import Gpu
from headway_planner.steps import StepModel


@dataclass(frozen=True, slots=True)
class ClassDemand:
    """Requests per second of mean lengths, their targets, and the prompt at the 95th percentile (0: the mean).

    `deadline_s`: what may wait must be finished in this time; infinite: the first token counts.
    """

    name: str
    rate: float
    mix: Mix
    ttft_ms: float
    itl_ms: float
    long_input: int = 0
    deadline_s: float = math.inf

    @property
    def longest(self) -> int:
        """The prompt that the p95 is about, tokens."""
        return self.long_input or round(self.mix.inputs)


@dataclass(frozen=True, slots=True)
class Demand:
    """The classes that share the fleet, better ones first; at least one."""

    classes: tuple[ClassDemand, ...]

    @property
    def waiting(self) -> tuple[ClassDemand, ...]:
        """The classes that have a deadline."""
        return tuple(one for one in self.classes if one.deadline_s < math.inf)

    @property
    def online(self) -> "Demand | None":
        """The demand of those that have none; None when all have one."""
        others = tuple(one for one in self.classes if one.deadline_s == math.inf)
        return Demand(others) if others else None

    @property
    def rate(self) -> float:
        """Requests per second."""
        return sum(one.rate for one in self.classes)

    @property
    def output_rate(self) -> float:
        """Output tokens per second."""
        return sum(one.rate * one.mix.outputs for one in self.classes)

    @property
    def itl_ms(self) -> float:
        """The strictest target: all share the steps."""
        return min(one.itl_ms for one in self.classes)

    @property
    def mix(self) -> Mix:
        """The mean request. A class holds its context for as long as it produces tokens."""
        inputs = sum(one.rate * one.mix.inputs for one in self.classes) / self.rate
        held = sum(one.rate * one.mix.outputs * one.mix.context for one in self.classes) / self.output_rate
        return Mix(inputs, self.output_rate / self.rate, held)


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs of one replica; `interconnect` is nvlink or pcie, `price` USD per GPU-hour."""

    gpu: Gpu
    tp: int
    interconnect: str = "nvlink"
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that could serve, computed or measured.

    Attributes:
        name: of its row: the GPU type, or what an engine file calls it.
        interconnect: what the GPUs of a replica talk over; "": it is in the measurement.
        reduces: all-reduces of a step that are told apart from the rest: constant, and per token.
        price: USD per GPU-hour.
        kv_heads: of a computed engine, which its GPUs must share evenly; 0: it was measured, so they do.
    """

    name: str
    model: StepModel
    interconnect: str = ""
    reduces: tuple[float, float] = (0.0, 0.0)
    price: float | None = None
    kv_heads: int = 0


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class in one configuration. `ttft_p95_ms` is None for what waits for slack: it has a deadline instead."""

    name: str
    rate: float
    input_tokens: float
    output_tokens: float
    ttft_p95_ms: float | None
    ttft_target_ms: float
    itl_target_ms: float
    deadline_s: float = math.inf

    @property
    def lateness(self) -> float:
        """p95 TTFT over its target."""
        return (self.ttft_p95_ms or 0.0) / self.ttft_target_ms


@dataclass(frozen=True, slots=True)
class Slack:
    """Where the work with deadlines goes: engines of it and of the other classes in the mean, and replicas for those alone."""

    waiting: float
    online: float
    replicas_online: int


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration. `replicas` is 0 when it cannot serve the demand; `binds` says why.

    Attributes:
        gpu: the type, or the name of a measured engine.
        interconnect: what the GPUs of a replica talk over (L40S has no NVLink); "" for a measured engine.
        gpus: of all replicas.
        ttft_p95_ms: of the class that is nearest to its target.
        tokens_per_s: output tokens that the load asks for.
        usd_per_hour, usd_per_million: of all replicas, and per million output tokens; None without a price.
        binds: the largest of `parts_ms` but launches, or memory where the KV cache ends the batch.
        batch: sequences of one replica at the rate that it sustains.
        slack: None when no class has a deadline.
        estimated: replicas that the formula asked for, where they were too few in the simulator; else 0.
        parts_ms: where the time of a step goes at that batch, prompts included: bandwidth, compute, communication, launches.
    """

    gpu: str
    tp: int
    interconnect: str
    replicas: int
    binds: str
    ttft_p95_ms: float | None = None
    itl_p95_ms: float | None = None
    tokens_per_s: float | None = None
    usd_per_hour: float | None = None
    usd_per_million: float | None = None
    gpus: int = 0
    kv_tokens: int = 0
    batch: float | None = None
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[ClassRow, ...] = ()
    slack: Slack | None = None
    estimated: int = 0

    @property
    def lateness(self) -> float:
        """p95 TTFT over its target, of the class that is nearest to it; 0 while no class has one."""
        return max((one.lateness for one in self.classes), default=0.0)
