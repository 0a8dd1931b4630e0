"""One request in the simulator, its class, and how it ended."""

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Rank(IntEnum):
    """Workload classes by priority; the lower number goes first."""

    REALTIME = 0
    INTERACTIVE = 1
    BATCH = 2


# Targets of the time to the first token, milliseconds; the defaults of `spec.slo.class`.
TTFT_TARGET_MS = {Rank.REALTIME: 400.0, Rank.INTERACTIVE: 1500.0, Rank.BATCH: 10_000.0}
ITL_TARGET_MS = {Rank.REALTIME: 50.0, Rank.INTERACTIVE: 100.0, Rank.BATCH: 500.0}


class End(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    REJECTED = "rejected"  # can never fit into the KV cache
    CUT = "cut"  # its replica failed, or was removed, after its first token
    EXPIRED = "expired"  # still there when the simulation was stopped


@dataclass(frozen=True, slots=True)
class Arrival:
    """One line of a trace. `deadline_s`: from its arrival, by when batch work must be finished; infinite: it has none."""

    at_s: float
    inputs: int
    outputs: int
    rank: Rank
    deadline_s: float = math.inf

    @property
    def deferrable(self) -> bool:
        """Whether it may wait: what has a deadline is judged by that, not by its first token."""
        return self.deadline_s < math.inf


class Job:
    """A request under way. Written by the replica that holds it; plain fields, because there are millions.

    `made` counts tokens produced up to `joined_step`; while it decodes, one more with every step of its replica.
    """

    __slots__ = (
        "admitted_s", "arrival_s", "deadline_s", "deferrable", "done", "end", "end_s", "finish_step", "first_s",
        "inputs", "joined_step", "made", "need", "outputs", "rank", "uid",
    )  # fmt: skip

    def __init__(self, uid: int, arrival: Arrival) -> None:
        self.uid = uid
        self.arrival_s = arrival.at_s
        self.inputs = arrival.inputs
        self.outputs = arrival.outputs
        self.rank: int = int(arrival.rank)
        self.deadline_s = arrival.deadline_s
        self.deferrable = arrival.deferrable
        self.need = arrival.inputs  # tokens to prefill; after a preemption the produced ones as well
        self.done = 0  # of them prefilled
        self.made = 0
        self.joined_step = 0
        self.finish_step = -1
        self.admitted_s = -1.0
        self.first_s = -1.0
        self.end_s = -1.0
        self.end: End | None = None

    def close(self, end: End, at_s: float) -> None:
        """Record the end; a request ends once."""
        if self.end is not None:
            raise RuntimeError(f"request {self.uid} ended twice: {self.end}, {end}")
        self.end = end
        self.end_s = at_s
