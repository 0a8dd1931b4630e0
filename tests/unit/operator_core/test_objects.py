"""Names, the pod template and the other objects: equal input, equal bytes."""

import json
from pathlib import Path

import pytest
from fleet_world import DEFAULTS, spec

from headway_operator.api.v1alpha1 import LLMDeployment, baseline_limits
from headway_operator.core import desired, names, podspec
from headway_operator.core.observed import Defaults

SNAPSHOT = Path(__file__).parent / "snapshot_objects.json"
METADATA = {"name": "chat", "namespace": "default", "uid": "u-1", "generation": 1}
GPU_ENGINE = {
    "image": "registry.example/engine:2",
    "device": "cuda",
    "maxModelLen": 8192,
    "capacity": {"maxNumSeqs": 64, "maxNumBatchedTokens": 2048, "kvCacheMemoryMebibytes": 1024},
    "resources": {"requests": {"cpu": 2}, "limits": {"memory": "8Gi"}},
}


def fleet(**overrides: object) -> LLMDeployment:
    return LLMDeployment.model_validate({"metadata": METADATA, "spec": spec(**overrides)})


def pod(**overrides: object) -> dict:
    one = fleet(**overrides)
    owner = desired.owner_reference(one)
    return podspec.pod_manifest(one, "chat-abc123-0", baseline_limits(one.spec), DEFAULTS, owner)


def engine(manifest: dict) -> dict:
    return manifest["spec"]["containers"][0]


def source(**kind: object) -> dict:
    return {"source": kind}


def test_objects_are_byte_equal_to_the_snapshot():
    gpu = pod(engine=GPU_ENGINE, model=source(pvc={"claimName": "weights", "path": "qwen"}))
    objects = [*desired.children(fleet(), 3), pod(), gpu]
    text = json.dumps(objects, indent=1, sort_keys=True) + "\n"
    assert text == SNAPSHOT.read_text()


def test_pod_meets_the_restricted_profile():
    manifest = pod()
    security = manifest["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert engine(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_gpu_pod_asks_for_one_gpu_per_rank_and_shared_memory():
    manifest = pod(engine=GPU_ENGINE)
    resources = engine(manifest)["resources"]
    assert resources["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert resources["requests"] == {"cpu": "2", "nvidia.com/gpu": "1"}
    assert {"mountPath": "/dev/shm", "name": "shm"} in engine(manifest)["volumeMounts"]
    assert {"emptyDir": {"medium": "Memory"}, "name": "shm"} in manifest["spec"]["volumes"]


@pytest.mark.parametrize(
    ("model", "path", "volume"),
    [
        (source(packed={"path": "/opt/m.gguf"}), "/opt/m.gguf", None),
        (
            source(pvc={"claimName": "c"}),
            "/models",
            {"name": "model", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
        ),
        (
            source(pvc={"claimName": "c", "path": "a/b"}),
            "/models/a/b",
            {"name": "model", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
        ),
        (source(hostPath={"path": "/data/qwen"}), "/models", {"hostPath": {"path": "/data/qwen"}, "name": "model"}),
        (source(hostPath={"path": "/data/m.gguf"}), "/models/m.gguf", {"hostPath": {"path": "/data"}, "name": "model"}),
        (
            source(image={"reference": "m:1", "path": "x"}),
            "/models/x",
            {"image": {"pullPolicy": "IfNotPresent", "reference": "m:1"}, "name": "model"},
        ),
    ],
)
def test_model_source_becomes_a_volume_and_a_path(model: dict, path: str, volume: dict | None):
    manifest = pod(model=model)
    assert f"--model={path}" in engine(manifest)["args"]
    found = [one for one in manifest["spec"]["volumes"] if one["name"] == "model"]
    assert found == ([volume] if volume else [])


def test_rules_of_batching_reach_the_engine_and_the_default_ones_need_no_flag():
    assert not any("batching-mode" in flag or "profile" in flag for flag in engine(pod(slo=None))["args"])
    limits = {"batchingMode": "Dynamic", "profile": "LowTail"}
    slo = {"workloadClass": "interactive", "interTokenLatency": {"targetMilliseconds": 70}}
    flags = {"--batching-mode=dynamic", "--profile=low-tail", "--itl-target-ms=70"}
    assert flags <= set(engine(pod(engine={**spec()["engine"], "limits": limits}, slo=slo))["args"])


def test_class_reserve_and_queue_of_batch_work_reach_the_engine_where_they_say_something():
    flags = ("default-class", "reserved-percent", "max-queued-batch-requests")
    assert not any(flag in text for text in engine(pod())["args"] for flag in flags)
    slo = {"workloadClass": "batch", "classes": [{"workloadClass": "interactive"}]}
    found = set(engine(pod(slo=slo))["args"])
    assert {"--default-class=batch", "--reserved-percent=20", "--max-queued-batch-requests=1024"} <= found
    assert {"--itl-target-ms=100", "--profile=throughput"} <= found


def test_prompt_policy_reaches_the_engine():
    cut = {**spec()["engine"], "promptPolicy": "TruncateMiddle"}
    assert "--prompt-policy=truncate-middle" in engine(pod(engine=cut))["args"]
    assert not any("prompt-policy" in flag for flag in engine(pod())["args"])


def test_grace_period_covers_endpoint_removal_drain_and_shutdown():
    assert pod()["spec"]["terminationGracePeriodSeconds"] == 60 + 2 + podspec.GRACE_MARGIN_S


def test_operator_may_replace_the_command_of_the_image():
    one = fleet()
    defaults = Defaults(engine_image="e:1", engine_command=("python", "-m", "headway_engine"))
    owner = desired.owner_reference(one)
    manifest = podspec.pod_manifest(one, "p", baseline_limits(one.spec), defaults, owner)
    assert engine(manifest)["command"] == ["python", "-m", "headway_engine"]
    assert "command" not in engine(pod())


def revision(**overrides: object) -> str:
    return podspec.revision(fleet(**overrides).spec)


def test_live_limits_do_not_change_the_revision():
    limits = {"maxNumSeqs": 9, "maxNumBatchedTokens": 99}
    assert revision(engine={**spec()["engine"], "limits": limits}) == revision()


def test_another_class_does_not_change_the_revision():
    assert len({revision(slo={"workloadClass": kind}) for kind in ("realtime", "interactive", "batch")}) == 1
    several = {"workloadClass": "interactive", "classes": [{"workloadClass": "batch"}]}
    assert revision(slo=several) == revision()


def test_fields_of_the_operator_alone_do_not_change_the_revision():
    assert revision(drain={"timeoutSeconds": 5}, replicas=4, paused=True, rollout={"maxSurge": 2}) == revision()


def test_defaults_written_out_do_not_change_the_revision():
    assert revision(engine={**spec()["engine"], "dtype": "auto", "tensorParallelSize": 1}) == revision()


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {**spec()["engine"], "image": "other:1"}},
        {"engine": {**spec()["engine"], "capacity": {"maxNumSeqs": 32, "maxNumBatchedTokens": 256}}},
        {"model": source(packed={"path": "/models/other.gguf"})},
        {"template": {"spec": {"priorityClassName": "high"}}},
    ],
)
def test_everything_that_needs_a_restart_changes_the_revision(change: dict):
    assert revision(**change) != revision()


def test_free_names_are_the_lowest_ordinals():
    assert names.free_names("f", "abc123", ["f-abc123-0", "f-abc123-2"], 2) == ("f-abc123-1", "f-abc123-3")


@pytest.mark.parametrize(("name", "ordinal"), [("f-abc123-12", 12), ("f-abc123-x", -1), ("f", -1)])
def test_ordinal_is_the_number_at_the_end(name: str, ordinal: int):
    assert names.ordinal_of(name) == ordinal


def test_template_changes_the_engine_container_by_name():
    template = {"spec": {"containers": [{"name": "engine", "env": [{"name": "X", "value": "1"}]}]}}
    manifest = pod(template=template)
    assert len(manifest["spec"]["containers"]) == 1
    assert {"name": "X", "value": "1"} in engine(manifest)["env"]
    assert {"name": "HOME", "value": "/tmp"} in engine(manifest)["env"]


def test_template_appends_tolerations_and_volumes():
    template = {"spec": {"tolerations": [{"key": "spot"}], "volumes": [{"name": "extra", "emptyDir": {}}]}}
    manifest = pod(engine=GPU_ENGINE, template=template)
    assert [one["key"] for one in manifest["spec"]["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert [one["name"] for one in manifest["spec"]["volumes"]] == ["tmp", "shm", "extra"]


def test_security_defaults_stay_unless_they_are_named():
    template = {"spec": {"securityContext": {"runAsUser": 1000}}}
    security = pod(template=template)["spec"]["securityContext"]
    assert security["runAsUser"] == 1000
    assert security["runAsNonRoot"] is True


def test_null_in_the_template_removes_a_field():
    manifest = pod(template={"spec": {"securityContext": {"fsGroup": None}}})
    assert "fsGroup" not in manifest["spec"]["securityContext"]


def test_sidecar_gets_the_security_defaults():
    template = {"spec": {"containers": [{"name": "proxy", "image": "p:1", "securityContext": {"runAsUser": 7}}]}}
    sidecar = pod(template=template)["spec"]["containers"][1]
    assert sidecar["securityContext"]["runAsUser"] == 7
    assert sidecar["securityContext"]["allowPrivilegeEscalation"] is False


def test_labels_of_the_operator_win_over_the_template():
    manifest = pod(
        template={"metadata": {"labels": {names.LABEL_FLEET: "other", "team": "a"}, "annotations": {"n": "1"}}}
    )
    assert manifest["metadata"]["labels"][names.LABEL_FLEET] == "chat"
    assert manifest["metadata"]["labels"]["team"] == "a"
    assert manifest["metadata"]["annotations"] == {"n": "1"}
