"""NetworkPolicies become nftables rules by the words of their API."""

from collections.abc import Mapping
from typing import Any

import pytest
from localcluster.netpolrules import Observed, render, selects


def _pod(
    name: str, ip: str, labels: Mapping[str, str], namespace: str = "a", node: str = "n1", **spec: Any
) -> dict[str, Any]:
    ports = [{"name": "web", "containerPort": 8080}, {"containerPort": 9}]
    return {
        "metadata": {"uid": f"u-{name}", "name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {"nodeName": node, "containers": [{"ports": ports}], **spec},
        "status": {"podIP": ip, "phase": "Running"},
    }


NAMESPACES = [
    {"metadata": {"name": "a", "labels": {"team": "x"}}},
    {"metadata": {"name": "b", "labels": {"team": "y"}}},
]
PODS = [
    _pod("server", "10.0.1.2", {"app": "server"}),
    _pod("client", "10.0.2.3", {"role": "client"}, node="n2"),
    _pod("stranger", "10.0.2.4", {"role": "client"}, namespace="b", node="n2"),
]


def _rules(spec: Mapping[str, Any], pods: list[dict[str, Any]] | None = None) -> list[str]:
    """The rules of the server's only chain, without its counter."""
    policy = {
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, **spec},
    }
    lines = render(Observed.parse([policy], PODS if pods is None else pods, NAMESPACES), "n1").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(" chain pod_"))
    rules = [line.strip() for line in lines[start + 1 : lines.index(" }", start)]]
    assert rules.pop() == "counter drop"
    return rules


def test_without_policies_nothing_is_dropped() -> None:
    text = render(Observed.parse([], PODS, NAMESPACES), "n1")
    assert "drop" not in text
    assert text.startswith("table ip headway_netpol\ndelete table ip headway_netpol\ntable ip headway_netpol {")


def test_a_pod_that_is_selected_gets_only_what_a_rule_allows() -> None:
    peers = [{"podSelector": {"matchLabels": {"role": "client"}}}]
    assert _rules({"ingress": [{"from": peers, "ports": [{"port": 80}]}]}) == ["ip saddr 10.0.2.3 tcp dport 80 return"]


def test_a_namespace_selector_reaches_other_namespaces() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "y"}}, "podSelector": {}}]
    assert _rules({"ingress": [{"from": peers}]}) == ["ip saddr 10.0.2.4 return"]


def test_an_empty_rule_allows_all_and_no_rule_nothing() -> None:
    assert _rules({"ingress": [{}]}) == ["return"]
    assert _rules({"policyTypes": ["Ingress"]}) == []


def test_an_address_block_keeps_its_exceptions() -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}
    assert _rules({"ingress": [{"from": [{"ipBlock": block}]}]}) == [
        "ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16, 10.2.0.0/16 } return"
    ]


@pytest.mark.parametrize(
    ("port", "rules"),
    [
        ({"port": 80, "endPort": 90}, ["tcp dport 80-90 return"]),
        ({"port": "web"}, ["tcp dport 8080 return"]),
        ({"port": "absent"}, []),
        ({"port": "web", "protocol": "UDP"}, []),
        ({"protocol": "UDP"}, ["ip protocol udp return"]),
    ],
)
def test_ports_of_every_form(port: Mapping[str, Any], rules: list[str]) -> None:
    assert _rules({"ingress": [{"ports": [port]}]}) == rules


def test_egress_uses_the_ports_of_the_pod_that_is_called_and_guards_the_node_too() -> None:
    spec = {"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "web"}]}]}
    assert _rules(spec) == ["ip daddr 10.0.2.3 tcp dport 8080 return", "ip daddr 10.0.1.2 tcp dport 8080 return"]
    policy = {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, **spec}}
    text = render(Observed.parse([policy], PODS, NAMESPACES), "n1")
    assert text.count("ip saddr 10.0.1.2 jump pod_egress_userver") == 2


def test_pods_of_other_nodes_on_the_host_network_or_ended_get_no_chain() -> None:
    policy = {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    host = _pod("host", "10.0.0.1", {}, hostNetwork=True)
    done = _pod("done", "10.0.1.9", {})
    done["status"]["phase"] = "Succeeded"
    text = render(Observed.parse([policy], [*PODS, host, done], NAMESPACES), "n1")
    assert text.count(" chain pod_") == 1


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("In", ["1", "2"], {"k": "1"}, True),
        ("In", ["1"], {}, False),
        ("NotIn", ["1"], {"k": "2"}, True),
        ("NotIn", ["1"], {}, True),
        ("NotIn", ["1"], {"k": "1"}, False),
        ("Exists", None, {"k": ""}, True),
        ("DoesNotExist", None, {"k": ""}, False),
        ("DoesNotExist", None, {}, True),
    ],
)
def test_label_expressions(operator: str, values: list[str] | None, labels: dict[str, str], *, matches: bool) -> None:
    expression = {"key": "k", "operator": operator, **({"values": values} if values else {})}
    assert selects({"matchExpressions": [expression]}, labels) is matches
