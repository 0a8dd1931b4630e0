"""Starting the cluster, also again: each step looks first, so a second `up` repairs what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import (
    build,
    controlplane,
    deps,
    dns,
    firewall,
    hostdirs,
    images,
    netpol,
    network,
    node,
    pki,
    ranges,
    record,
    registry,
    sysctls,
    teardown,
)
from .api import Api
from .errors import ClusterError
from .record import Host, Shape
from .settings import MAX_NODES, Addresses, Paths


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for; None leaves it as it is."""

    nodes: int | None = None
    netpol: bool = False


def up(paths: Paths, addresses: Addresses, wanted: Wanted) -> Shape:
    """Brings the cluster up and returns its shape. Says how long each part took."""
    deps.require_root()
    deps.ensure()
    binaries = build.ensure(paths)
    images.ensure_pause(paths)
    images.ensure_base(paths)
    say = _stopwatch()
    shape = _settle_shape(paths, addresses, wanted)
    _take_host(paths, addresses)
    record.save(paths.state, shape)
    indices = range(1, shape.nodes + 1)

    pki.ensure(paths, addresses)
    sysctls.apply_needed()
    network.make_bridge(addresses)
    controlplane.start_store_and_api(paths, addresses, binaries)
    # While the API server starts: everything that does not need it.
    registry.start_registry(paths, addresses)
    for index in indices:
        node.prepare(paths, addresses, index)
        node.start_containerd(paths, binaries, index)
    api = Api(paths, addresses)
    controlplane.start_rest(paths, binaries, api)
    say("API server ready")
    for index in range(shape.nodes + 1, MAX_NODES + 1):
        node.retire(paths, api, index)
    since = {index: node.start_agents(paths, addresses, binaries, index) for index in indices}
    dns.start_dns(paths, addresses, binaries, api)
    if shape.netpol:
        for index in indices:
            netpol.start_enforcer(paths, index)
    for index in indices:
        node.wait_ready(paths, api, index, since[index])
    say(f"{'node' if shape.nodes == 1 else f'{shape.nodes} nodes'} Ready")
    dns.wait_ready(paths)
    say("cluster DNS ready")
    return shape


def _settle_shape(paths: Paths, addresses: Addresses, wanted: Wanted) -> Shape:
    known = record.load_shape(paths.state)
    made = Shape.of(addresses, wanted.nodes or 1, netpol=wanted.netpol)
    if known is None:
        return made
    if known.addresses != addresses:
        raise ClusterError(
            f"the cluster's state was made for the ranges {known.node_net}, {known.pod_net}, {known.service_net}; "
            "unset HEADWAY_*_NET, or run `cluster.py down --purge` first to move it"
        )
    return replace(known, nodes=wanted.nodes or known.nodes, netpol=known.netpol or wanted.netpol)


def _take_host(paths: Paths, addresses: Addresses) -> None:
    """Checks that the host has room for us and writes down how it is, before the first change."""
    host = record.load_host(paths.state)
    if host is not None and not teardown.reset_after_reboot(paths, host):
        return  # up already, or an interrupted up: what is there is ours
    firewall.require_absent()
    ranges.require_free(addresses)
    record.save(paths.state, Host(record.boot_id(), sysctls.read(), firewall.tables_now(), hostdirs.absent()))


def _stopwatch() -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)

    return say


def binaries_of(paths: Paths) -> Path:
    """The folder of the binaries, which must be there."""
    folder = build.bin_dir(paths)
    if not folder.is_dir():
        raise ClusterError("the cluster's binaries are not built; run `cluster.py build`")
    return folder
