"""From NetworkPolicies to the text of one nftables table: pure.

Each pod of the node that a policy selects gets a chain per direction. The base chains send its new
connections there; a rule that allows returns, and the end of the chain drops. Replies pass before.
Covered: pod and namespace selectors, ipBlock with except, ports, port ranges, named ports, both
directions, IPv4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .firewall import NETPOL_TABLE

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has an address of its own."""

    uid: str
    namespace: str
    node: str
    ip: str
    labels: Mapping[str, str]
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the rules depend on."""

    policies: tuple[Json, ...]
    pods: tuple[Pod, ...]
    namespaces: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, policies: Iterable[Json], pods: Iterable[Json], namespaces: Iterable[Json]) -> Observed:
        """Reads the API's objects; pods without an address, on the host's network or ended are left out."""
        return cls(
            policies=tuple(policies),
            pods=tuple(sorted((pod for obj in pods if (pod := _pod(obj))), key=lambda pod: pod.uid)),
            namespaces={n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in namespaces},
        )


def render(observed: Observed, node: str) -> str:
    """The script that replaces the node's table in one transaction."""
    chains: list[str] = []
    jumps: dict[str, list[str]] = {"forward": [], "input": []}
    for pod in (p for p in observed.pods if p.node == node):
        mine = [
            p["spec"]
            for p in observed.policies
            if p["metadata"]["namespace"] == pod.namespace and selects(p["spec"].get("podSelector", {}), pod.labels)
        ]
        for direction in ("Ingress", "Egress"):
            specs = [spec for spec in mine if direction in _directions(spec)]
            if not specs:
                continue
            chain = f"pod_{direction.lower()}_{pod.uid.replace('-', '')}"
            rules = dict.fromkeys(rule for spec in specs for rule in _rules(observed, pod, direction, spec))
            chains += [f" chain {chain} {{", *(f"  {rule}" for rule in rules), "  counter drop", " }"]
            jump = f"  ip {'daddr' if direction == 'Ingress' else 'saddr'} {pod.ip} jump {chain}"
            jumps["forward"].append(jump)
            if direction == "Egress":
                jumps["input"].append(jump)  # to the node itself: API server, DNS
    for hook, lines in jumps.items():
        chains += [
            f" chain {hook} {{",
            f"  type filter hook {hook} priority -10; policy accept;",
            "  ct state established,related accept",
            *lines,
            " }",
        ]
    head = f"table ip {NETPOL_TABLE}"
    return "\n".join([head, f"delete {head}", f"{head} {{", *chains, "}", ""])


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(e, labels) for e in selector.get("matchExpressions") or [])


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


def _pod(obj: Json) -> Pod | None:
    meta, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
    if not status.get("podIP") or spec.get("hostNetwork") or status.get("phase") not in ("Pending", "Running"):
        return None
    ports = tuple(
        (port["name"], port.get("protocol", "TCP"), int(port["containerPort"]))
        for container in [*spec["containers"], *spec.get("initContainers", [])]
        for port in container.get("ports", [])
        if port.get("name")
    )
    return Pod(meta["uid"], meta["namespace"], spec.get("nodeName", ""), status["podIP"], meta.get("labels", {}), ports)


def _directions(spec: Json) -> list[str]:
    return list(spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])])


def _rules(observed: Observed, pod: Pod, direction: str, spec: Json) -> Iterator[str]:
    """An nftables rule for each peer and port that the policy allows."""
    ingress = direction == "Ingress"
    for rule in spec.get("ingress" if ingress else "egress") or []:
        peers = rule.get("from" if ingress else "to")
        ends = [end for peer in peers for end in _ends(observed, pod, ingress, peer)] if peers else [("", None)]
        for match, other in ends:
            for port in rule.get("ports") or [None]:
                # A named port is a port of the pod that is connected to.
                for dport in _ports(port, pod if ingress else other):
                    yield " ".join(word for word in (match, dport, "return") if word)


def _ends(observed: Observed, pod: Pod, ingress: bool, peer: Json) -> Iterator[tuple[str, Pod | None]]:
    """The other ends that a peer of a rule stands for, as matches on their address."""
    field = "ip saddr" if ingress else "ip daddr"
    if block := peer.get("ipBlock"):
        without = f" {field} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
        yield f"{field} {block['cidr']}{without}", None
        return
    for other in observed.pods:
        if "namespaceSelector" in peer:
            near = selects(peer["namespaceSelector"], observed.namespaces.get(other.namespace, {}))
        else:
            near = other.namespace == pod.namespace
        if near and selects(peer.get("podSelector") or {}, other.labels):
            yield f"{field} {other.ip}", other


def _ports(port: Json | None, target: Pod | None) -> list[str]:
    if port is None:
        return [""]
    protocol, wanted = port.get("protocol", "TCP"), port.get("port")
    if wanted is None:
        return [f"ip protocol {protocol.lower()}"]
    if isinstance(wanted, int):
        return [f"{protocol.lower()} dport {wanted}" + (f"-{port['endPort']}" if "endPort" in port else "")]
    named = target.ports if target else ()
    return [
        f"{protocol.lower()} dport {number}" for name, proto, number in named if (name, proto) == (wanted, protocol)
    ]
