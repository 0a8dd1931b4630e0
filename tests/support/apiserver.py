"""A real API server on the loopback: etcd and kube-apiserver of the local cluster, in a folder of their own.

No kubelet and no controllers: objects are stored, validated and watched, and nothing acts on them. RBAC is on; the
administrator's token is a member of system:masters. Two processes, free ports, about five seconds to be ready.
"""

import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubeapi import KubeApi, UnreachableError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
BUILD_TIMEOUT_S = 1800.0
BIN_DIR_ENV = "HEADWAY_TEST_BIN_DIR"  # a folder with etcd, kube-apiserver and kubectl, instead of the local cluster's
_CLUSTER = Path(__file__).parents[2] / "deploy" / "local" / "cluster.py"
_NEEDED = ("etcd", "kube-apiserver", "kubectl")


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server.

    Attributes:
        api: a client with the administrator's rights.
        kubeconfig: the same rights, for kubectl and for client libraries.
        kubectl: path of the matching kubectl.
    """

    api: KubeApi
    kubeconfig: Path
    kubectl: Path


def binaries() -> Path:
    """The folder of the binaries; builds them when they are not there (minutes, once)."""
    override = os.environ.get(BIN_DIR_ENV)
    folder = Path(override) if override else _cluster_bin_dir()
    if not _complete(folder) and not override:
        subprocess.run(["python3", str(_CLUSTER), "build"], check=True, timeout=BUILD_TIMEOUT_S)
    if not _complete(folder):
        raise FileNotFoundError(f"{folder} must hold {', '.join(_NEEDED)}")
    return folder


def _cluster_bin_dir() -> Path:
    shown = subprocess.run(["python3", str(_CLUSTER), "bin-dir"], check=True, capture_output=True, text=True)
    return Path(shown.stdout.strip())


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(folder: Path | None = None) -> Iterator[ApiServer]:
    """Starts etcd and kube-apiserver, yields when they are ready, and stops them: the API server first."""
    bin_dir = folder or binaries()
    state = Path(tempfile.mkdtemp(prefix="headway-apiserver-"))
    try:
        with ExitStack() as stack:
            etcd_url = f"http://127.0.0.1:{_free_port()}"
            stack.enter_context(_process(_etcd_command(bin_dir, state, etcd_url), state / "etcd.log"))
            port, token = _free_port(), secrets.token_hex(16)
            _write_credentials(state, token)
            command = _apiserver_command(bin_dir, state, etcd_url, port)
            process = stack.enter_context(_process(command, state / "apiserver.log"))
            api = KubeApi(f"https://127.0.0.1:{port}", token, state / "certs" / "apiserver.crt")
            _wait_ready(api, process, state / "apiserver.log")
            kubeconfig = state / "kubeconfig"
            kubeconfig.write_text(_kubeconfig(api))
            yield ApiServer(api, kubeconfig, bin_dir / "kubectl")
    finally:
        shutil.rmtree(state)


def _etcd_command(bin_dir: Path, state: Path, url: str) -> list[str]:
    peer = f"http://127.0.0.1:{_free_port()}"
    return [
        str(bin_dir / "etcd"),
        "--name=test",
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver_command(bin_dir: Path, state: Path, etcd_url: str, port: int) -> list[str]:
    return [
        str(bin_dir / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={state / 'certs'}",  # it signs a certificate for itself there
        f"--token-auth-file={state / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        f"--service-account-key-file={state / 'sa.pub'}",
        f"--service-account-signing-key-file={state / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",  # a loopback address may not be published as an endpoint
        "--disable-admission-plugins=ServiceAccount",  # nobody makes the default account that a pod would need
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _write_credentials(state: Path, token: str) -> None:
    tokens = state / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    key, public = state / "sa.key", state / "sa.pub"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)], check=True, capture_output=True)


def _kubeconfig(api: KubeApi) -> str:
    cluster = {"server": api.url, "certificate-authority": str(api.authority)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": api.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    }
    return yaml.safe_dump(document)


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(api: KubeApi, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"kube-apiserver ended with {process.returncode}:\n{_tail(log)}")
        try:
            if api.get("/readyz").status == 200:
                return
        except (UnreachableError, FileNotFoundError, ssl.SSLError):  # the last two: its certificate is not written yet
            pass
        time.sleep(0.1)
    raise TimeoutError(f"kube-apiserver is not ready after {READY_TIMEOUT_S:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
