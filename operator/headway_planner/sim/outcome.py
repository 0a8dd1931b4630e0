"""What came of a run, in the figures of the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, End, Job, Rank


@dataclass(frozen=True, slots=True)
class Scaling:
    """One change of the wanted count. `fleet`: 1 in the batch fleet of two."""

    at_s: float
    before: int
    after: int
    reason: str
    fleet: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `end_s`: the last arrival; replicas are charged to it, and after it while they have work."""

    jobs: Sequence[Job]
    end_s: float
    replica_seconds: float
    gpus: int
    changes: tuple[Scaling, ...]
    limit_changes: int
    preemptions: int

    @property
    def gpu_hours(self) -> float:
        """Charged hours, starts and drains included."""
        return self.replica_seconds * self.gpus / 3600

    @property
    def replicas_mean(self) -> float:
        """Charged replicas, mean over the time of the trace."""
        return self.replica_seconds / self.end_s if self.end_s > 0 else 0.0

    @property
    def reversals_per_hour(self) -> float:
        """Changes of a fleet's count in the other direction than the one before."""
        turns = sum(
            one.fleet == other.fleet and (one.after > one.before) != (other.after > other.before)
            for one, other in pairwise(self.changes)
        )
        return turns * 3600 / self.end_s if self.end_s > 0 else 0.0

    @property
    def cut_streams(self) -> int:
        """Requests that lost their replica after their first token."""
        return self.ended(End.CUT)

    def ended(self, end: End) -> int:
        """Requests that ended so."""
        return sum(job.end is end for job in self.jobs)

    def attainment(self) -> float | None:
        """Share of the requests without a deadline whose first token came in time; without such, of those that met theirs."""
        waiting_for_token = [job for job in self.jobs if not job.deferrable]
        return _share(waiting_for_token, _first_in_time) if waiting_for_token else self.deadlines_met()

    def class_attainment(self, rank: Rank) -> float | None:
        """Share of the requests of one class whose first token came in time, deadlines or not; None without requests."""
        return _share([job for job in self.jobs if job.rank == rank], _first_in_time)

    def deadlines_met(self) -> float | None:
        """Share of the requests with a deadline that were finished by it; None when there is none."""
        mine = [job for job in self.jobs if job.deferrable]
        return _share(mine, lambda job: job.end is End.FINISHED and job.end_s - job.arrival_s <= job.deadline_s)

    def tpot_attainment(self) -> float | None:
        """Share of the requests whose mean time between tokens kept the class's target."""
        return _share(self.jobs, lambda job: tpot_ms(job) <= ITL_TARGET_MS[Rank(job.rank)])

    def ttft_quantile_ms(self, share: float) -> float | None:
        """A percentile of the time to the first token; None without requests."""
        if not self.jobs:
            return None
        times = sorted(ttft_ms(job) for job in self.jobs)
        return times[min(len(times) - 1, int(share * len(times)))]


def joined(online: Outcome, batch: Outcome) -> Outcome:
    """Two fleets beside each other as one: what came of their requests, and what they cost together."""
    return Outcome(
        jobs=[*online.jobs, *batch.jobs],
        end_s=max(online.end_s, batch.end_s),
        replica_seconds=online.replica_seconds + batch.replica_seconds,
        gpus=online.gpus,
        changes=(*online.changes, *(replace(one, fleet=1) for one in batch.changes)),
        limit_changes=online.limit_changes + batch.limit_changes,
        preemptions=online.preemptions + batch.preemptions,
    )


def ttft_ms(job: Job) -> float:
    """From the arrival at the gateway to the first token; infinite when none came."""
    return (job.first_s - job.arrival_s) * 1000 if job.first_s >= 0 else float("inf")


def tpot_ms(job: Job) -> float:
    """Mean time between the tokens of an answer; infinite when it is incomplete."""
    if job.end is not End.FINISHED:
        return float("inf")
    return (job.end_s - job.first_s) * 1000 / (job.outputs - 1) if job.outputs > 1 else 0.0


def _first_in_time(job: Job) -> bool:
    return ttft_ms(job) <= TTFT_TARGET_MS[Rank(job.rank)]


def _share(jobs: Sequence[Job], good: Callable[[Job], bool]) -> float | None:
    return sum(map(good, jobs)) / len(jobs) if jobs else None
