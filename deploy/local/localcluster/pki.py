"""Certificates and kubeconfigs. The common name decides what a component may do: built-in roles bind them all."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .settings import API_PORT, Addresses, Paths, node_name
from .shell import run

_DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client or server certificate; the subject is its identity to the API server."""

    name: str
    subject: str
    alt_names: str = ""
    authority: str = "ca"


def cluster_certificates(addresses: Addresses) -> list[Certificate]:
    """What the control plane needs, whatever the number of nodes."""
    service = "kubernetes.default.svc"
    names = ["localhost", "kubernetes", "kubernetes.default", service, f"{service}.cluster.local"]
    ips = ["127.0.0.1", str(addresses.api_service), str(addresses.node_ip(1))]
    alt_names = ",".join([*(f"DNS:{n}" for n in names), *(f"IP:{ip}" for ip in ips)])
    return [
        Certificate("apiserver", "/CN=kube-apiserver", alt_names),
        Certificate("front", "/CN=front-proxy-client", authority="front-ca"),
        Certificate("admin", "/O=system:masters/CN=admin"),
        Certificate("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        Certificate("controllers", "/CN=system:kube-controller-manager"),
        Certificate("scheduler", "/CN=system:kube-scheduler"),
        Certificate("proxy", "/CN=system:kube-proxy"),
        Certificate("coredns", "/CN=system:coredns"),
    ]


def node_certificate(addresses: Addresses, index: int) -> Certificate:
    """A kubelet's identity, also its server certificate for logs and exec."""
    name = node_name(index)
    alt_names = f"DNS:{name},IP:{addresses.node_ip(index)}"
    return Certificate(name, f"/O=system:nodes/CN=system:node:{name}", alt_names)


def ensure(paths: Paths, addresses: Addresses) -> None:
    """Makes what is missing: authorities, certificates, the key that signs service account tokens, kubeconfigs."""
    paths.pki.mkdir(parents=True, exist_ok=True)
    paths.pki.chmod(0o700)
    for name in ("ca", "front-ca"):
        _ensure_authority(paths.pki, name)
    for certificate in cluster_certificates(addresses):
        ensure_certificate(paths.pki, certificate)
    key, public = paths.pki / "sa.key", paths.pki / "sa.pub"
    if not public.exists():
        run(["openssl", "genrsa", "-out", key, "2048"])
        run(["openssl", "rsa", "-in", key, "-pubout", "-out", public])
    for name in ("controllers", "scheduler", "proxy", "coredns"):
        ensure_kubeconfig(paths, addresses, name, kubeconfig(paths, name))
    ensure_kubeconfig(paths, addresses, "admin", paths.kubeconfig)


def kubeconfig(paths: Paths, name: str) -> Path:
    """Where the kubeconfig of a component lies."""
    return paths.pki / f"{name}.kubeconfig"


def ensure_certificate(folder: Path, certificate: Certificate) -> None:
    """Makes a key and a certificate; the certificate appears last and complete."""
    target = folder / f"{certificate.name}.crt"
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder) as work:
        request, made, extensions = Path(work, "csr"), Path(work, "crt"), Path(work, "ext")
        extensions.write_text(f"subjectAltName={certificate.alt_names}\n" if certificate.alt_names else "")
        key = folder / f"{certificate.name}.key"
        run(["openssl", "req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", certificate.subject])
        authority = folder / certificate.authority
        signing = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", _DAYS]
        run(["openssl", "x509", "-req", "-in", request, *signing, "-out", made, "-extfile", extensions])
        made.rename(target)


def _ensure_authority(folder: Path, name: str) -> None:
    target = folder / f"{name}.crt"
    if not target.exists():
        made = folder / f"{name}.crt.tmp"
        key = folder / f"{name}.key"
        run(
            [
                "openssl",
                "req",
                "-x509",
                *_NEW_KEY,
                "-days",
                _DAYS,
                "-keyout",
                key,
                "-out",
                made,
                "-subj",
                f"/CN=headway-{name}",
            ]
        )
        made.rename(target)


def ensure_kubeconfig(paths: Paths, addresses: Addresses, user: str, target: Path) -> None:
    """Writes a kubeconfig with the keys inside, so that it works wherever it is copied. JSON is YAML."""
    if target.exists():
        return

    def data(name: str) -> str:
        return base64.b64encode((paths.pki / name).read_bytes()).decode()

    server = f"https://{addresses.node_ip(1)}:{API_PORT}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "headway",
        "clusters": [{"name": "headway", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")},
            }
        ],
        "contexts": [{"name": "headway", "context": {"cluster": "headway", "user": user}}],
    }
    temporary = target.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        json.dump(config, f, indent=1)
    temporary.rename(target)
