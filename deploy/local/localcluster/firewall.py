"""The firewall rules that kube-proxy, kubelet and the CNI plugins add, and taking away just those.

Their chain names (KUBE-*, CNI-*) are the same for every Kubernetes on a host, so the cluster starts
only where none exist; from then on all of them are its own. Removal names each rule and chain, and
leaves every other rule with its counters alone.
"""

from __future__ import annotations

import re

from .errors import ClusterError
from .shell import run

OWN_PREFIXES = ("KUBE-", "CNI-")
NETPOL_TABLE = "headway_netpol"
_FAMILIES = (("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore"))
_TARGET = re.compile(r"\s-[jg]\s+(\S+)")
# A comment may hold anything, also the text of another rule.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def own_chains(saved: str) -> list[str]:
    """Names of the Kubernetes chains in the output of `iptables-save`."""
    return [line[1:].split()[0] for line in saved.splitlines() if line.startswith(tuple(f":{p}" for p in OWN_PREFIXES))]


def removal_script(saved: str) -> str:
    """Input for `iptables-restore --noflush` that removes the Kubernetes chains and the rules that lead to them.

    A rule outside these chains that carries a target of theirs is deleted by its text; the chains
    are emptied (by declaring them), then deleted. Empty when there is nothing to remove.
    """
    script: list[str] = []
    table, chains, jumps = "", list[str](), list[str]()
    for line in saved.splitlines():
        if line.startswith("*"):
            table, chains, jumps = line[1:], [], []
        elif line.startswith(":") and line[1:].startswith(OWN_PREFIXES):
            chains.append(line[1:].split()[0])
        elif line.startswith("-A ") and not line[3:].startswith(OWN_PREFIXES):
            target = _TARGET.search(_QUOTED.sub('""', line))
            if target and target[1].startswith(OWN_PREFIXES):
                jumps.append("-D " + line[3:])
        elif line == "COMMIT" and (chains or jumps):
            script += [f"*{table}", *(f":{c} - [0:0]" for c in chains), *jumps, *(f"-X {c}" for c in chains), "COMMIT"]
    return "\n".join(script) + "\n" if script else ""


def chains_now() -> list[str]:
    """Every Kubernetes chain on the host, of IPv4 and IPv6."""
    return sorted({chain for save, _ in _FAMILIES for chain in own_chains(run([save], check=False))})


def require_absent() -> None:
    """Raises when another Kubernetes has rules here: they could not be told from ours."""
    if chains := chains_now():
        raise ClusterError(
            f"another Kubernetes has firewall rules on this machine ({', '.join(chains[:4])}, {len(chains)} chains). "
            "Its kube-proxy and ours would overwrite each other. Stop it first, or use CLUSTER=current to use it"
        )


def tables_now() -> list[str]:
    """The nftables tables on the host, as `family name`."""
    return [line.removeprefix("table ").strip() for line in run(["nft", "list", "tables"]).splitlines() if line]


def remove_own(tables_before: list[str]) -> None:
    """Removes the Kubernetes chains, our NetworkPolicy table, and the tables that iptables made for them."""
    for save, restore in _FAMILIES:
        if script := removal_script(run([save], check=False)):
            run([restore, "--noflush"], stdin=script)
    for table in tables_now():
        if table == f"ip {NETPOL_TABLE}" or (
            table not in tables_before and is_empty(run(["nft", "list", "table", *table.split()]))
        ):
            run(["nft", "delete", "table", *table.split()], check=False)


def is_empty(table: str) -> bool:
    """Whether the listing of an nftables table holds nothing but the base chains that iptables makes."""
    inside = [line.strip() for line in table.splitlines()[1:-1]]
    return all(not line or line == "}" or line.startswith(("chain ", "type ", "#")) for line in inside) and not any(
        line.startswith("chain ") and line.split()[1] not in {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
        for line in inside
    )
