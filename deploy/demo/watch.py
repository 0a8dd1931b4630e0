"""The terminal table of the demo: one line whenever the fleet changes, and at least one every few seconds."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import steps

HEADER = f"{'':8}  {'READY':>5} {'WANTED':>6} {'QUEUE':>5} {'TTFT-P95':>9} {'TOK/S':>6} {'SEQS':>4} {'TOKENS':>6}  WHY"


@dataclass(frozen=True, slots=True)
class Row:
    """What one line shows; None where the status says nothing yet."""

    ready: int
    desired: int
    queue: int | None
    ttft: str
    tokens_per_second: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    slo_met: bool | None
    why: str

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Sequences and tokens per step."""
        return self.max_num_seqs, self.max_num_batched_tokens

    @property
    def decided(self) -> tuple[int, int, int | None, int | None]:
        """The part whose change is worth a line of its own."""
        return self.ready, self.desired, self.max_num_seqs, self.max_num_batched_tokens

    def __str__(self) -> str:
        numbers = [self.queue, self.tokens_per_second, self.max_num_seqs, self.max_num_batched_tokens]
        queue, tps, seqs, tokens = ("-" if number is None else str(number) for number in numbers)
        return (
            f"{time.strftime('%H:%M:%S')}  {self.ready:>5} {self.desired:>6} {queue:>5} {self.ttft:>9} {tps:>6} "
            f"{seqs:>4} {tokens:>6}  {self.why}"
        )


def changes(deployment: Mapping[str, Any]) -> dict[str, str]:
    """What the status remembers of decisions: a key for each, and the words for it."""
    status = deployment.get("status", {})
    # A change of limits names them in its reason, the numbers before and after included.
    return {
        f"{kind} {change['time']} {change['to']}": (
            f"{kind}: {change['reason']}"
            if kind == "retuned"
            else f"{kind}: {change['from']} -> {change['to']}: {change['reason']}"
        )
        for kind, part in (("scaled", "scaling"), ("retuned", "tuning"))
        for change in status.get(part, {}).get("history", [])
    }


def row(deployment: Mapping[str, Any], known_changes: set[str]) -> Row:
    """Build a line from an LLMDeployment; `known_changes` grows by the decisions already told."""
    status = deployment.get("status", {})
    slo, scaling, tuning = (status.get(part, {}) for part in ("slo", "scaling", "tuning"))
    remembered = changes(deployment)
    news = [words for key, words in remembered.items() if key not in known_changes]
    known_changes.update(remembered)
    return Row(
        ready=status.get("readyReplicas", 0),
        desired=scaling.get("desiredReplicas", status.get("replicas", 0)),
        queue=slo.get("queueDepth"),
        ttft=slo.get("ttftObserved", "-"),
        tokens_per_second=slo.get("tokensPerSecond"),
        max_num_seqs=tuning.get("effective", {}).get("maxNumSeqs"),
        max_num_batched_tokens=tuning.get("effective", {}).get("maxNumBatchedTokens"),
        slo_met=_slo_met(status.get("conditions", [])),
        why="; ".join(news),
    )


def _slo_met(conditions: list[dict[str, str]]) -> bool | None:
    said = next((one["status"] for one in conditions if one["type"] == "SLOMet"), "Unknown")
    return {"True": True, "False": False}.get(said)


def follow(name: str, namespace: str, until: Callable[[Row], bool], *, timeout_s: float) -> Iterator[Row]:
    """Print lines until `until(row)` holds or the time is over; yields every row seen, printed or not."""
    deadline = time.monotonic() + timeout_s
    last: Row | None = None
    printed_s = 0.0
    known = set(changes(steps.fleet(name, namespace)))
    print(HEADER, flush=True)
    while time.monotonic() < deadline:
        current = row(steps.fleet(name, namespace), known)
        if last is None or current.decided != last.decided or current.why or time.monotonic() - printed_s > 6:
            print(current, flush=True)
            printed_s = time.monotonic()
        last = current
        yield current
        if until(current):
            return
        time.sleep(1)
