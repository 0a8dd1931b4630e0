"""What runs and what the API server says, for a person."""

from __future__ import annotations

from . import processes, record
from .api import Api, ApiError, Json
from .node import is_ready
from .settings import Paths, node_name


def describe(paths: Paths) -> tuple[bool, list[str]]:
    """Whether the cluster is usable, and the lines to print."""
    shape = record.load_shape(paths.state)
    host = record.load_host(paths.state)
    if shape is None:
        return False, ["down: there is no cluster; `make cluster` starts one"]
    if host is None:
        return False, [f"down: its state is kept in {paths.state}; `make cluster` starts it again"]
    names = sorted(p.name for p in paths.pids.iterdir()) if paths.pids.is_dir() else []
    ended = [name for name in names if processes.pid_of(paths, name) is None]
    lines = [f"running: {', '.join(name for name in names if name not in ended) or 'nothing'}"]
    if ended:
        lines.append(f"ended: {', '.join(ended)} (logs in {paths.logs}); `make cluster` starts them again")
    try:
        nodes = Api(paths, shape.addresses).items("/api/v1/nodes")
    except (OSError, ApiError) as err:
        return False, [*lines, f"the API server does not answer: {err}; `make cluster` starts it again"]
    lines += [_node_line(node) for node in nodes]
    lines.append(f"export KUBECONFIG={paths.kubeconfig}")
    names_ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
    return not ended and all(node_name(i) in names_ready for i in range(1, shape.nodes + 1)), lines


def _node_line(node: Json) -> str:
    gpus = node["status"].get("allocatable", {}).get("nvidia.com/gpu", "0")
    return f"{node['metadata']['name']}: {'Ready' if is_ready(node) else 'NotReady'}, {gpus} GPUs"
