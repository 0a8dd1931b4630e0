"""The task table: one asyncio task per fleet, which passes when woken or when its time has come.

`wake` asks for a pass now, `nudge` for one within a while; both only move a deadline, so any number of them cost one pass.
Passes of one fleet never overlap and begin at least `SPACING_S` apart, which folds a burst of events into one. After a
failure the wait doubles from 0.5 s to 60 s, and wakes cannot shorten it below 5 s: a broken fleet is no retry storm, yet a
corrected spec is seen at once. A task ends when its LLMDeployment is gone.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from headway_operator.shell.kube import Failure, FleetKey
from headway_operator.shell.reconcile import Outcome

log = logging.getLogger(__name__)

SPACING_S = 0.2
NUDGE_SPACING_S = 2.0  # passes that only traffic asks for are this far apart
BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 60.0
BACKOFF_WOKEN_CAP_S = 5.0
JITTER = 0.1  # of the idle interval, so that fleets that began together drift apart
CONCURRENT_PASSES = 8  # of all fleets: bounds memory and API load when a thousand fleets begin at once

Pass = Callable[[FleetKey], Awaitable[Outcome]]


class _Fleet:
    """The schedule of one fleet; times are the loop's clock."""

    def __init__(self) -> None:
        self.due_s = 0.0
        self.not_before_s = 0.0
        self.last_end_s = 0.0
        self.began_s: float | None = None  # of the pass under way
        self.failures = 0
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def ask(self, at_s: float) -> None:
        """Make the next pass due at `at_s`, if it was not earlier already."""
        if at_s < self.due_s:
            self.due_s = at_s
            self.moved.set()


class Fleets:
    """All fleets.

    Args:
        run_pass: one pass over a fleet; it does not raise.
        on_count: told how many fleets there are.
    """

    def __init__(self, run_pass: Pass, on_count: Callable[[int], None] = lambda _: None) -> None:
        self._run_pass = run_pass
        self._on_count = on_count
        self._fleets: dict[FleetKey, _Fleet] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_PASSES)
        self._stopped = False

    def __len__(self) -> int:
        return len(self._fleets)

    def __contains__(self, key: FleetKey) -> bool:
        return key in self._fleets

    def wake(self, key: FleetKey) -> None:
        """Pass over this fleet now; begins its task when it is new."""
        if self._stopped:
            return
        now_s = asyncio.get_running_loop().time()
        fleet = self._fleets.get(key)
        if fleet is None:
            fleet = self._fleets[key] = _Fleet()
            fleet.due_s = fleet.last_end_s = now_s
            fleet.task = asyncio.get_running_loop().create_task(self._run(key, fleet), name=f"fleet {key}")
            self._on_count(len(self._fleets))
        fleet.ask(max(now_s, fleet.not_before_s))

    def nudge(self, key: FleetKey) -> None:
        """Pass over this fleet soon, without hurry: its engines report traffic."""
        fleet = self._fleets.get(key)
        if fleet is not None:
            fleet.ask(max(fleet.last_end_s + NUDGE_SPACING_S, fleet.not_before_s))

    def longest_overdue_s(self) -> float:
        """How long the most neglected fleet has been due, or its pass under way; 0 when none is."""
        now_s = asyncio.get_running_loop().time()
        waits = (now_s - (fleet.due_s if fleet.began_s is None else fleet.began_s) for fleet in self._fleets.values())
        return max(0.0, *waits, 0.0)

    async def stop(self, patience_s: float) -> None:
        """End all tasks; passes under way may finish within `patience_s`."""
        self._stopped = True
        tasks = [fleet.task for fleet in self._fleets.values() if fleet.task is not None]
        for fleet in self._fleets.values():
            fleet.moved.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, key: FleetKey, fleet: _Fleet) -> None:
        clock = asyncio.get_running_loop().time
        while await self._is_due(fleet):
            async with self._slots:
                # From here on a wake means something the pass may not have seen.
                fleet.due_s, fleet.began_s = float("inf"), clock()
                outcome = await self._run_pass(key)
            fleet.last_end_s, fleet.began_s = clock(), None
            if outcome.gone and fleet.due_s == float("inf"):
                del self._fleets[key]
                self._on_count(len(self._fleets))
                return
            self._schedule(fleet, outcome)

    async def _is_due(self, fleet: _Fleet) -> bool:
        """Wait until the fleet's deadline, wherever it moves; False when the table was stopped."""
        clock = asyncio.get_running_loop().time
        while not self._stopped:
            fleet.moved.clear()
            wait_s = fleet.due_s - clock()
            if wait_s <= 0:
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await fleet.moved.wait()
        return False

    def _schedule(self, fleet: _Fleet, outcome: Outcome) -> None:
        """Set the next deadline; a wake that came during the pass stays in force."""
        end_s = fleet.last_end_s
        if outcome.failure is None:
            fleet.failures = 0
            fleet.not_before_s = end_s + SPACING_S
            fleet.due_s = min(fleet.due_s, end_s + outcome.requeue_s * random.uniform(1 - JITTER, 1.0))  # noqa: S311  jitter
        else:
            fleet.failures += 1
            wait_s = max(outcome.requeue_s, backoff_s(fleet.failures, outcome.failure))
            wait_s *= random.uniform(1.0, 1.0 + JITTER)  # noqa: S311  jitter
            fleet.not_before_s = end_s + min(wait_s, max(BACKOFF_WOKEN_CAP_S, outcome.requeue_s))
            fleet.due_s = min(fleet.due_s, end_s + wait_s)
        fleet.due_s = max(fleet.due_s, fleet.not_before_s)


def backoff_s(failures: int, failure: Failure) -> float:
    """How long to wait after so many failures in a row.

    A conflict is somebody else's write: the next pass reads it and decides anew. What is permanent begins near the cap.
    """
    if failure is Failure.PERMANENT:
        return min(BACKOFF_CAP_S, BACKOFF_WOKEN_CAP_S * 2.0 ** min(failures - 1, 10))
    return min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
