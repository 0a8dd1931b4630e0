"""The command line of the local cluster."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from . import build, deps, gpus, images, netpol, node, record, registry, status, teardown, up
from .api import Api
from .errors import ClusterError
from .foreign import Current, Kind
from .lock import alone
from .settings import Addresses, Paths, node_name

PROVIDERS = ("own", "kind", "current")
# The commands that mean something for a cluster of another provider.
SHARED_COMMANDS = ("up", "down", "status", "kubeconfig")


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        paths = Paths.from_env(os.environ)
        if arguments.provider != "own":
            return _foreign(arguments, paths)
        command: Callable[[argparse.Namespace, Paths], int] = arguments.command
        return command(arguments, paths)
    except ClusterError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to go on, or `down` to clear everything away", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(prog="cluster.py", description="A real Kubernetes on this machine, for Headway.")
    top.add_argument("--provider", choices=PROVIDERS, default="own", help="whose cluster (default: own)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Paths], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, name=name)
        return sub

    starting = add("up", _up, "start the cluster, or what is missing of it")
    starting.add_argument("--nodes", type=int, choices=(1, 2), help="real nodes (default: as it is, or 1)")
    starting.add_argument("--netpol", action="store_true", help="enforce NetworkPolicies")
    stopping = add("down", _down, "stop the cluster and leave nothing of it on the host")
    stopping.add_argument("--purge", action="store_true", help="also delete its objects, images and certificates")
    add("status", _status, "say what runs (exit status 0 when all of it does)")
    add("kubeconfig", _kubeconfig, "print the path of the kubeconfig")
    add("env", _env, "print shell lines that set KUBECONFIG and PATH")
    add("bin-dir", _bin_dir, "print the folder of the binaries (kubectl, helm, etcd, kube-apiserver, ...)")
    add(
        "registry-dir",
        _registry_dir,
        "print the image folder (made if absent); pods pull registry.headway.local/NAME:TAG",
    )
    add("deps", _deps, "install the Debian packages that the cluster needs")
    add("build", _build, "build the binaries and the base images, once")
    add("prometheus", _prometheus, "build Prometheus and promtool, once, and print their folder")
    faking = add("fake-nodes", _fake_nodes, "have COUNT nodes with GPUS fake GPUs each beside the real ones (kwok)")
    faking.add_argument("count", type=int, metavar="COUNT")
    faking.add_argument("gpus", type=int, metavar="GPUS")
    giving = add("fake-gpus", _fake_gpus, "give the real node NAME so many fake GPUs")
    giving.add_argument("node", metavar="NAME")
    giving.add_argument("count", type=int, metavar="COUNT")
    killing = add("kill-node", _kill_node, "cut the power of node N; `up` brings it back")
    killing.add_argument("node", type=int, choices=(1, 2), metavar="N")
    serving = add("serve-registry", _serve_registry, "(internal) the registry's process")
    serving.add_argument("folder", type=Path)
    serving.add_argument("address")
    serving.add_argument("port", type=int)
    enforcing = add("enforce-policies", _enforce_policies, "(internal) a node's NetworkPolicy process")
    enforcing.add_argument("node", type=int)
    enforcing.add_argument("--state", type=Path, required=True)
    return top


def _up(arguments: argparse.Namespace, paths: Paths) -> int:
    deps.require_root()
    with _only_one(paths):
        addresses = Addresses.from_env(os.environ)
        up.up(paths, addresses, up.Wanted(nodes=arguments.nodes, netpol=arguments.netpol))
    print(f"export KUBECONFIG={paths.kubeconfig}")
    return 0


def _down(arguments: argparse.Namespace, paths: Paths) -> int:
    deps.require_root()
    with _only_one(paths):
        problems = teardown.down(paths, _addresses(paths, lenient=True), purge=arguments.purge)
    if problems:
        print("error: not everything could be removed:\n  " + "\n  ".join(problems), file=sys.stderr)
        return 1
    print("the cluster is down; nothing of it is left on this machine" if arguments.purge else "the cluster is down")
    return 0


def _status(_: argparse.Namespace, paths: Paths) -> int:
    usable, lines = status.describe(paths)
    print("\n".join(lines))
    return 0 if usable else 1


def _kubeconfig(_: argparse.Namespace, paths: Paths) -> int:
    print(paths.kubeconfig)
    return 0


def _env(_: argparse.Namespace, paths: Paths) -> int:
    print(f"export KUBECONFIG={shlex.quote(str(paths.kubeconfig))}")
    print(f'export PATH={shlex.quote(str(build.bin_dir(paths)))}:"$PATH"')
    return 0


def _bin_dir(_: argparse.Namespace, paths: Paths) -> int:
    print(build.bin_dir(paths))
    return 0


def _registry_dir(_: argparse.Namespace, paths: Paths) -> int:
    paths.registry.mkdir(parents=True, exist_ok=True)
    print(paths.registry)
    return 0


def _deps(_: argparse.Namespace, __: Paths) -> int:
    deps.ensure()
    print("every package is there")
    return 0


def _build(_: argparse.Namespace, paths: Paths) -> int:
    print(build.ensure(paths))
    images.ensure_pause(paths)
    images.ensure_base(paths)
    return 0


def _prometheus(_: argparse.Namespace, paths: Paths) -> int:
    print(build.ensure_watchers(paths))
    return 0


def _fake_nodes(arguments: argparse.Namespace, paths: Paths) -> int:
    deps.require_root()
    with _only_one(paths):
        gpus.set_fake_nodes(paths, _addresses(paths), up.binaries_of(paths), arguments.count, arguments.gpus)
    print(f"{arguments.count} fake nodes with {arguments.gpus} GPUs each")
    return 0


def _fake_gpus(arguments: argparse.Namespace, paths: Paths) -> int:
    gpus.set_on_node(Api(paths, _addresses(paths)), arguments.node, arguments.count)
    print(f"{arguments.node}: {arguments.count} GPUs")
    return 0


def _kill_node(arguments: argparse.Namespace, paths: Paths) -> int:
    deps.require_root()
    with _only_one(paths):
        left = node.power_off(paths, arguments.node)
    if left:
        raise ClusterError(f"these processes did not die: {left}")
    print(f"{node_name(arguments.node)} is without power; `up` brings it back")
    return 0


def _foreign(arguments: argparse.Namespace, paths: Paths) -> int:
    """One of the shared commands for kind or the user's own cluster."""
    if arguments.name not in SHARED_COMMANDS:
        raise ClusterError(f"`{arguments.name}` is for the own local cluster only, not for {arguments.provider}")
    cluster = Kind(paths) if arguments.provider == "kind" else Current.find(build.bin_dir(paths))
    usable = True
    match arguments.name:
        case "up":
            text = cluster.up(arguments.nodes or 1) if isinstance(cluster, Kind) else cluster.up()
        case "down":
            text = cluster.down()
        case "kubeconfig":
            text = cluster.kubeconfig
        case _:
            usable, text = cluster.status()
    print(text)
    return 0 if usable else 1


def _serve_registry(arguments: argparse.Namespace, _: Paths) -> int:
    registry.serve(arguments.folder, arguments.address, arguments.port).serve_forever()
    return 0


def _enforce_policies(arguments: argparse.Namespace, paths: Paths) -> int:
    here = Paths(cache=paths.cache, state=arguments.state)
    netpol.enforce(here, _addresses(here), arguments.node)
    return 0


def _addresses(paths: Paths, *, lenient: bool = False) -> Addresses:
    """The ranges the cluster was made with; those of the environment when there is none."""
    try:
        shape = record.load_shape(paths.state)
    except ClusterError:
        if not lenient:
            raise
        shape = None
    return shape.addresses if shape else Addresses.from_env(os.environ)


def _only_one(paths: Paths) -> AbstractContextManager[None]:
    return alone(paths.lock, "another command changes the cluster")
