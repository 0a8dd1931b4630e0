"""The running local cluster does what the end-to-end tests build on: DNS, RBAC, Pod Security, GPUs, image volumes."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from localcluster import build, gpus, images
from localcluster.api import Api
from localcluster.settings import Addresses, Paths, node_name

PATHS = Paths.from_env(os.environ)
BASE = images.reference(images.BASE)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),  # the first pod of a fresh cluster also unpacks its image, on a busy disk
    pytest.mark.skipif(
        os.environ.get("KUBECONFIG", str(PATHS.kubeconfig)) != str(PATHS.kubeconfig),
        reason="these check the own local cluster, and KUBECONFIG names another",
    ),
]

IN_POD = """
import json, socket, ssl, urllib.error, urllib.request
secrets = "/var/run/secrets/kubernetes.io/serviceaccount/"
names = ("kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
context = ssl.create_default_context(cafile=secrets + "ca.crt")
def status(path):
    token = {"Authorization": "Bearer " + open(secrets + "token").read()}
    request = urllib.request.Request("https://kubernetes.default.svc" + path, headers=token)
    try:
        return urllib.request.urlopen(request, context=context, timeout=60).status
    except urllib.error.HTTPError as err:
        return err.code
print(json.dumps({
    "names": sorted({socket.gethostbyname(name) for name in names}),
    "pods": status("/api/v1/namespaces/NAMESPACE/pods"),
    "secrets": status("/api/v1/namespaces/NAMESPACE/secrets"),
}))
"""


def kubectl(*arguments: str, stdin: object = None) -> str:
    """Runs kubectl on the own cluster; its words are in the failure."""
    argv = [str(build.bin_dir(PATHS) / "kubectl"), f"--kubeconfig={PATHS.kubeconfig}", *arguments]
    text = None if stdin is None else json.dumps(stdin)
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=270)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


@pytest.fixture
def restricted() -> Iterator[str]:
    """A namespace that admits restricted pods only, gone again after the test."""
    name = f"local-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl(
        "create",
        "-f",
        "-",
        stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )
    # A controller makes it; the API server looks for it for a second or two, and then refuses a pod.
    kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=240s")
    yield name
    kubectl("delete", "namespace", name, "--timeout=240s")


def pod(name: str, command: list[str], **container: Any) -> dict[str, Any]:
    """A pod that fulfils the restricted profile."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "c",
                    "image": BASE,
                    "command": command,
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    **container,
                }
            ],
        },
    }


def test_a_pod_finds_the_api_by_name_and_may_do_what_its_role_says(restricted: str) -> None:
    kubectl("-n", restricted, "create", "role", "reader", "--verb=list", "--resource=pods")
    account = f"--serviceaccount={restricted}:default"
    kubectl("-n", restricted, "create", "rolebinding", "reader", "--role=reader", account)
    script = IN_POD.replace("NAMESPACE", restricted)
    kubectl("-n", restricted, "create", "-f", "-", stdin=pod("probe", ["python3", "-c", script]))
    kubectl("-n", restricted, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/probe", "--timeout=240s")
    said = json.loads(kubectl("-n", restricted, "logs", "probe"))
    assert said == {"names": [str(Addresses.from_env(os.environ).api_service)], "pods": 200, "secrets": 403}


def test_pod_security_refuses_a_bare_pod_and_names_what_it_lacks(restricted: str) -> None:
    bare = pod("bare", ["true"])
    del bare["spec"]["securityContext"]
    with pytest.raises(RuntimeError, match=r"violates PodSecurity.*runAsNonRoot"):
        kubectl("-n", restricted, "create", "-f", "-", stdin=bare)


def test_exec_and_an_image_as_a_read_only_volume(restricted: str) -> None:
    mounted = pod("volume", ["sleep", "600"], volumeMounts=[{"name": "v", "mountPath": "/v", "readOnly": True}])
    mounted["spec"]["volumes"] = [{"name": "v", "image": {"reference": images.reference(images.PAUSE)}}]
    kubectl("-n", restricted, "create", "-f", "-", stdin=mounted)
    kubectl("-n", restricted, "wait", "--for=condition=Ready", "pod/volume", "--timeout=240s")
    assert kubectl("-n", restricted, "exec", "volume", "--", "ls", "/v").split() == ["pause"]
    with pytest.raises(RuntimeError, match="Read-only file system"):
        kubectl("-n", restricted, "exec", "volume", "--", "touch", "/v/x")


def test_the_third_of_three_pods_waits_when_the_node_has_two_gpus(restricted: str) -> None:
    api = Api(PATHS, Addresses.from_env(os.environ))
    gpus.set_on_node(api, node_name(1), 2)
    try:
        for i in range(3):
            wanted = pod(f"gpu-{i}", ["sleep", "600"], resources={"limits": {gpus.RESOURCE: "1"}})
            kubectl("-n", restricted, "create", "-f", "-", stdin=wanted)
        # The scheduler takes them in the order of their creation.
        kubectl("-n", restricted, "wait", "--for=condition=Ready", "pod/gpu-0", "pod/gpu-1", "--timeout=240s")
        kubectl("-n", restricted, "wait", "--for=condition=PodScheduled=false", "pod/gpu-2", "--timeout=240s")
        said = kubectl("-n", restricted, "get", "pod", "gpu-2", "-o", "jsonpath={.status.conditions[*].message}")
        assert "Insufficient nvidia.com/gpu" in said
    finally:
        gpus.set_on_node(api, node_name(1), 0)
