"""Kernel settings that the cluster or its kubelet and kube-proxy change, remembered and put back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .errors import ClusterError

_ROOT = Path("/proc/sys")
# Pods reach other pods of their node through a Service only when bridged packets pass iptables.
NEEDED = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
# What kubelet (kernel tunables) and kube-proxy (conntrack, local node ports) set by themselves.
TOUCHED = (
    *NEEDED,
    "net/ipv4/conf/all/route_localnet",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def read(names: tuple[str, ...] = TOUCHED) -> dict[str, str]:
    """The present values of those settings that this kernel has."""
    values = {}
    for name in names:
        with suppress(OSError):
            values[name] = (_ROOT / name).read_text().strip()
    return values


def apply_needed() -> None:
    """Sets what the pod network needs on the host."""
    for name, value in NEEDED.items():
        path = _ROOT / name
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except OSError as err:
            hint = " (load the kernel module br_netfilter: `modprobe br_netfilter`)" if "bridge" in name else ""
            raise ClusterError(
                f"the kernel setting {name.replace('/', '.')} cannot be set to {value}{hint}: {err}"
            ) from err


def restore(values: dict[str, str]) -> list[str]:
    """Puts remembered values back; returns what could not be."""
    failed = []
    for name, value in values.items():
        path = _ROOT / name
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except OSError as err:
            failed.append(f"kernel setting {name.replace('/', '.')} (was {value}): {err.strerror}")
    return failed
