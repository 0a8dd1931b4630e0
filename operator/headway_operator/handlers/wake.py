"""The only Kopf handlers: each event wakes the fleet it belongs to, and nothing else happens here.

Kopf lists and watches; it stores nothing on our objects (no finalizer, no annotation), because no handler detects changes.
An event's content is not used beyond the fleet's name: the pass that it wakes reads everything afresh.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from headway_operator.core import names

Wake = Callable[[str, str], None]  # (namespace, fleet); must be safe to call from Kopf's thread

FLEETS = ("serving.headway.dev", "v1alpha1", "llmdeployments")
CHILDREN = (
    ("", "v1", "pods"),
    ("", "v1", "services"),
    ("", "v1", "serviceaccounts"),
    ("policy", "v1", "poddisruptionbudgets"),
)
CHILD_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.OPERATOR_NAME}"


def registry(wake: Wake) -> kopf.OperatorRegistry:
    """Kopf's handlers for the fleets and their children."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.event(*FLEETS, registry=handlers)
    async def fleet_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        wake(namespace or "", name or "")

    async def child_changed(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        if fleet := labels.get(names.LABEL_FLEET):
            wake(namespace or "", fleet)

    for group, version, plural in CHILDREN:
        kopf.on.event(group, version, plural, registry=handlers, id=f"{plural}_changed")(child_changed)
    return handlers
