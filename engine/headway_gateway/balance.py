"""Batch work that waits in one engine while another one has room: who is asked to give requests back. Pure.

    source   more wait in it than could begin, and some of them are this gateway's
    target   it is up and has slots for batch work that nobody has been promised

Each slot that is free is promised once, and as many requests are asked back, from the source whose work came first. The engine
chooses which of them: those that have not begun, in the order in which it would serve them. So nothing that was computed is
lost, and the work that is moved is the next in line. A request that was moved stays for `STAY_S`, so that two engines whose
figures are old do not hand it to and fro.
"""

from collections.abc import Collection
from dataclasses import dataclass

from headway_gateway.engine import Engine

STAY_S = 10.0
BEGUN = 256  # of the oldest that have no token, so many at most may be computing their prompts: they are named too


@dataclass(frozen=True, slots=True)
class GiveBack:
    """What to ask of an engine: at most `most` of these requests."""

    source: Engine
    request_ids: tuple[str, ...]
    most: int


def give_backs(engines: Collection[Engine], now: float) -> list[GiveBack]:
    """What to ask now; the room that it is for is promised."""
    models = {engine.model for engine in engines if engine.waiting and engine.queued}
    return [
        asked for model in sorted(models) for asked in _of_model([one for one in engines if one.model == model], now)
    ]


def _of_model(engines: Collection[Engine], now: float) -> list[GiveBack]:
    targets = [engine for engine in engines if engine.info is not None and engine.spare]
    left = sum(engine.spare for engine in targets)
    asked = []
    for source in sorted((engine for engine in engines if engine.waiting and engine.queued), key=_oldest_s):
        ids = tuple(name for name, one in source.waiting.items() if one.stays_until_s <= now)
        most = min(left, source.queued, len(ids))
        if most:
            asked.append(GiveBack(source, ids[: most + BEGUN], most))
            left -= most
    _promise(targets, sum(one.most for one in asked))
    return asked


def _promise(targets: Collection[Engine], count: int) -> None:
    for target in targets:
        share = min(count, target.spare)
        target.promised += share
        count -= share


def _oldest_s(engine: Engine) -> float:
    return min(one.arrived_s for one in engine.waiting.values())
