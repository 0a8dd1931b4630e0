"""What runs and what the API server says, for a person."""

from __future__ import annotations

from . import processes, record
from .api import Api, ApiError
from .errors import ClusterError
from .settings import Paths


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
    ready = [_node_line(node) for node in nodes]
    lines += [text for _, text in ready]
    lines.append(f"export KUBECONFIG={paths.kubeconfig}")
    real = [ok for (ok, _), node in zip(ready, nodes, strict=True) if node["metadata"]["name"].startswith("headway-")]
    return not ended and all(real) and len(real) == shape.nodes, lines


def _node_line(node: dict[str, object]) -> tuple[bool, str]:
    meta, state = node["metadata"], node["status"]
    if not isinstance(meta, dict) or not isinstance(state, dict):
        raise ClusterError("the API server sent a node without metadata or status")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in state.get("conditions", []))
    gpus = state.get("allocatable", {}).get("nvidia.com/gpu", "0")
    return ready, f"{meta['name']}: {'Ready' if ready else 'NotReady'}, {gpus} GPUs"
