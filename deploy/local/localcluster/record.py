"""What `up` writes down: `cluster.json` (the cluster's shape, until purge) and `host.json` (the host before us).

`host.json` is written before the first change to the host and removed after the last one is undone,
so its presence means that something of the cluster may be there, also after a crash.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from .errors import ClusterError
from .settings import Addresses

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the state folder was made for."""

    node_net: str
    pod_net: str
    service_net: str
    nodes: int
    netpol: bool

    @classmethod
    def of(cls, addresses: Addresses, nodes: int, *, netpol: bool) -> Shape:
        """The shape of a cluster with these addresses."""
        return cls(str(addresses.nodes), str(addresses.pods), str(addresses.services), nodes, netpol)

    @property
    def addresses(self) -> Addresses:
        """The ranges as values."""
        return Addresses(IPv4Network(self.node_net), IPv4Network(self.pod_net), IPv4Network(self.service_net))


@dataclass(frozen=True, slots=True)
class Host:
    """The host as it was before the first change."""

    boot_id: str
    sysctls: dict[str, str]
    nft_tables: list[str]
    absent: list[str]


T = TypeVar("T", Shape, Host)


def boot_id() -> str:
    """Differs after each start of the machine: what ran before it is gone."""
    return _BOOT_ID.read_text().strip()


def load_shape(state: Path) -> Shape | None:
    """The cluster's shape; None when there is no state."""
    return _load(state / "cluster.json", Shape)


def load_host(state: Path) -> Host | None:
    """The host before us; None when nothing of ours is on it."""
    return _load(state / "host.json", Host)


def save(state: Path, record: Shape | Host) -> None:
    """Writes a record in one step, so that a crash leaves the old or the new one."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / ("cluster.json" if isinstance(record, Shape) else "host.json")
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as f:
        json.dump(asdict(record), f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)


def forget_host(state: Path) -> None:
    """Says that the host is as it was."""
    (state / "host.json").unlink(missing_ok=True)


def _load(path: Path, kind: type[T]) -> T | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ClusterError(f"the state file {path} cannot be read: {err.strerror}") from err
    try:
        return kind(**json.loads(text))
    except (ValueError, TypeError) as err:
        raise ClusterError(
            f"the state file {path} is unreadable ({err}); `cluster.py down --purge` clears the cluster away"
        ) from err
