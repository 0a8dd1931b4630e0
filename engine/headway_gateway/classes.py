"""The workload class of a request: how long its reader is willing to wait. Pure.

Three places may name it: the header `x-headway-class`, for proxies and for clients whose bodies are not theirs; the field
`priority` of the body; and OpenAI's `service_tier`, whose `flex` is batch work and whose `priority` is realtime. They must
not contradict each other. Without any of them the fleet's own class holds (`slo.workloadClass`).
"""

from headway_gateway.errors import invalid
from headway_rpc import pb

HEADER = "x-headway-class"
CLASSES = {
    "realtime": pb.PRIORITY_REALTIME,
    "interactive": pb.PRIORITY_INTERACTIVE,
    "batch": pb.PRIORITY_BATCH,
}
# The other tiers ask for nothing in particular.
TIERS = {"flex": "batch", "priority": "realtime"}


def wanted(header: str | None, priority: str | None, tier: str | None) -> "pb.Priority.ValueType":
    """The class that a request names; unspecified when it names none.

    Raises:
        Failure: 400, the header names no class, or two places name different ones.
    """
    named = header.strip().lower() if header is not None else None
    if named is not None and named not in CLASSES:
        raise invalid(f"header {HEADER} must be one of {', '.join(CLASSES)}, got {named[:64]!r}", HEADER)
    places = {f"header {HEADER}": named, "priority": priority, "service_tier": TIERS.get(tier or "")}
    found = {place: kind for place, kind in places.items() if kind is not None}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{place} says {kind}" for place, kind in found.items())
        raise invalid(
            f"the request names more than one workload class: {told}", next(iter(found)).removeprefix("header ")
        )
    kind = next(iter(found.values()), None)
    return pb.PRIORITY_UNSPECIFIED if kind is None else CLASSES[kind]


def name(kind: "pb.Priority.ValueType") -> str:
    """The word for a class; `default` where the request named none."""
    return next((word for word, number in CLASSES.items() if number == kind), "default")
