"""The engine pod: restricted by default, one container, started with the limits that are in force.

Two parts of a pod do not belong to its revision: the live limits, which change without a restart, and what this version
of the operator happens to write around the user's wishes, so that an operator upgrade rolls nothing. The revision is
therefore a hash of the spec's own fields (model, engine without limits, template), not of the rendered pod.
"""

from pathlib import PurePosixPath

from headway_operator.api.v1alpha1 import (
    GPU_RESOURCE,
    BatchingMode,
    Device,
    Engine,
    HostPathSource,
    ImageSource,
    LimitValues,
    LLMDeployment,
    LLMDeploymentSpec,
    Model,
    PackedSource,
    Profile,
    PromptPolicy,
    PvcSource,
    WorkloadClass,
)
from headway_operator.core import names
from headway_operator.core.merge import merge
from headway_operator.core.observed import Defaults
from headway_operator.core.plan import Json

CONTAINER = "engine"
MODEL_MOUNT = "/models"
USER_ID = 65532
GRACE_MARGIN_S = 15  # beyond drain and endpoint removal: the process's own shutdown

CONTAINER_SECURITY: dict[str, Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def revision(spec: LLMDeploymentSpec) -> str:
    """Six hex digits over everything whose change restarts the pods."""
    content: dict[str, Json] = {
        "engine": spec.engine.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"limits"}),
        "model": spec.model.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "template": spec.template.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    return names.revision_hash(content)


def pod_manifest(
    fleet: LLMDeployment, name: str, limits: LimitValues, defaults: Defaults, owner: dict[str, Json]
) -> dict[str, Json]:
    """One engine pod, ready to be created."""
    fleet_name, template = fleet.metadata.name, fleet.spec.template
    ours = names.pod_labels(fleet_name, revision(fleet.spec))
    metadata: dict[str, Json] = {
        "name": name,
        "namespace": fleet.metadata.namespace,
        "labels": {**template.metadata.labels, **ours},
        "ownerReferences": [owner],
    }
    if template.metadata.annotations:
        metadata["annotations"] = dict(template.metadata.annotations)
    spec = merge(_pod_spec(fleet, limits, defaults), template.spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _secure_sidecars(spec)}


def engine_args(fleet: LLMDeployment, limits: LimitValues) -> list[str]:
    """The engine's flags, see docs/reference/commands.md."""
    engine = fleet.spec.engine
    rules = limits.batching_mode, limits.profile
    default_rules = rules == (BatchingMode.CONTINUOUS, Profile.THROUGHPUT) and not limits.reserved_percent
    default_policy = engine.prompt_policy is PromptPolicy.REJECT
    flags: list[tuple[str, str | int | None]] = [
        ("model", _model_path(fleet.spec.model)),
        ("served-model-name", fleet.model_name),
        ("device", engine.device.value),
        ("dtype", engine.dtype.value),
        ("max-model-len", engine.max_model_len),
        ("capacity-max-num-seqs", engine.capacity.max_num_seqs),
        ("capacity-max-num-batched-tokens", engine.capacity.max_num_batched_tokens),
        ("capacity-max-queued-requests", engine.capacity.max_queued_requests),
        ("max-num-seqs", limits.max_num_seqs),
        ("max-num-batched-tokens", limits.max_num_batched_tokens),
        ("batch-wait-ms", limits.batch_wait_milliseconds),
        ("max-queued-requests", limits.max_queued_requests),
        # Unless they say something, an engine of an older version, which does not know them, starts without.
        ("batching-mode", None if default_rules else names.engine_word(limits.batching_mode)),
        ("profile", None if default_rules else names.engine_word(limits.profile)),
        ("itl-target-ms", None if default_rules else limits.itl_target_milliseconds),
        *_class_flags(limits),
        ("prompt-policy", None if default_policy else names.engine_word(engine.prompt_policy)),
        ("kv-cache-memory-mib", engine.capacity.kv_cache_memory_mebibytes),
        ("drain-timeout-seconds", fleet.spec.drain.timeout_seconds),
    ]
    return [f"--{flag}={value}" for flag, value in flags if value is not None]


def _class_flags(limits: LimitValues) -> list[tuple[str, str | int | None]]:
    """What differs from an engine's own defaults: an older one does not know these flags."""
    kind = limits.default_class
    return [
        ("default-class", None if kind is WorkloadClass.INTERACTIVE else kind.value),
        ("reserved-percent", limits.reserved_percent or None),
        ("max-queued-batch-requests", limits.max_queued_batch_requests or None),
    ]


def _pod_spec(fleet: LLMDeployment, limits: LimitValues, defaults: Defaults) -> dict[str, Json]:
    drain = fleet.spec.drain
    spec: dict[str, Json] = {
        "automountServiceAccountToken": False,
        "containers": [_container(fleet, limits, defaults)],
        "enableServiceLinks": False,
        "restartPolicy": "Always",
        "securityContext": {
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": USER_ID,
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": fleet.metadata.name,
        "terminationGracePeriodSeconds": drain.timeout_seconds + drain.endpoint_removal_delay_seconds + GRACE_MARGIN_S,
        "volumes": _volumes(fleet.spec),
    }
    if fleet.spec.engine.device is Device.CUDA:
        # GPU nodes carry this taint by convention; the pod asks for a GPU, so it belongs there.
        spec["tolerations"] = [{"effect": "NoSchedule", "key": GPU_RESOURCE, "operator": "Exists"}]
    return spec


def image(engine: Engine, defaults: Defaults) -> str:
    """The image of a new pod: the user's, or the operator's default."""
    return engine.image or defaults.engine_image


def _container(fleet: LLMDeployment, limits: LimitValues, defaults: Defaults) -> dict[str, Json]:
    engine = fleet.spec.engine
    given = engine.image is not None
    container: dict[str, Json] = {
        "name": CONTAINER,
        "image": image(engine, defaults),
        "imagePullPolicy": engine.image_pull_policy.value if given else defaults.engine_image_pull_policy,
        "args": list[Json](engine_args(fleet, limits)),
        # The root is read-only and the user has no home: caches go to /tmp, and a name stands in for the passwd entry.
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "headway"}],  # noqa: S108  the pod's own emptyDir
        "livenessProbe": _probe("/healthz", period_s=10, timeout_s=10, failures=6),
        "ports": [
            {"containerPort": names.PORT_GRPC, "name": "grpc", "protocol": "TCP"},
            {"containerPort": names.PORT_CONTROL, "name": "control", "protocol": "TCP"},
            {"containerPort": names.PORT_HTTP, "name": "http", "protocol": "TCP"},
        ],
        "readinessProbe": _probe("/readyz", period_s=2, timeout_s=5, failures=3),
        "resources": _resources(fleet.spec),
        "securityContext": CONTAINER_SECURITY,
        # Loading 140 GB from a slow disk takes minutes; a second's period keeps small models fast.
        "startupProbe": _probe("/readyz", period_s=1, timeout_s=5, failures=1800),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(fleet.spec),
    }
    if defaults.engine_command:
        container["command"] = list[Json](defaults.engine_command)
    return container


def _probe(path: str, period_s: int, timeout_s: int, failures: int) -> dict[str, Json]:
    return {
        "failureThreshold": failures,
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
    }


def _resources(spec: LLMDeploymentSpec) -> dict[str, Json]:
    requests: dict[str, Json] = dict(spec.engine.resources.requests)
    limits: dict[str, Json] = dict(spec.engine.resources.limits)
    if spec.engine.device is Device.CUDA:
        gpus = str(spec.engine.tensor_parallel_size)
        requests[GPU_RESOURCE] = limits[GPU_RESOURCE] = gpus
    return {"limits": limits, "requests": requests}


def _model_path(model: Model) -> str:
    """The model's path inside the container."""
    match model.source.chosen:
        case PackedSource(path=path):
            return path
        case HostPathSource(path=path):
            return f"{MODEL_MOUNT}/{PurePosixPath(path).name}" if path.endswith(".gguf") else MODEL_MOUNT
        case PvcSource(path=path) | ImageSource(path=path):
            return str(PurePosixPath(MODEL_MOUNT) / path)


def _volumes(spec: LLMDeploymentSpec) -> list[Json]:
    volumes: list[Json] = [{"emptyDir": {}, "name": "tmp"}]
    if spec.engine.device is Device.CUDA:
        # The runtime's own /dev/shm has 64 MiB, too little for NCCL.
        volumes.append({"emptyDir": {"medium": "Memory"}, "name": "shm"})
    match spec.model.source.chosen:
        case PvcSource(claim_name=claim):
            volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        case HostPathSource(path=path):
            # The directory of a file, not the file: a missing file is then the engine's clear error, not the runtime's.
            folder = str(PurePosixPath(path).parent) if path.endswith(".gguf") else path
            volumes.append({"hostPath": {"path": folder}, "name": "model"})
        case ImageSource(reference=reference, pull_policy=policy):
            volumes.append({"image": {"pullPolicy": policy.value, "reference": reference}, "name": "model"})
        case PackedSource():
            pass
    return volumes


def _mounts(spec: LLMDeploymentSpec) -> list[Json]:
    mounts: list[Json] = [{"mountPath": "/tmp", "name": "tmp"}]  # noqa: S108  the pod's own emptyDir
    if spec.engine.device is Device.CUDA:
        mounts.append({"mountPath": "/dev/shm", "name": "shm"})  # noqa: S108  the pod's own emptyDir
    if not isinstance(spec.model.source.chosen, PackedSource):
        mounts.append({"mountPath": MODEL_MOUNT, "name": "model", "readOnly": True})
    return mounts


def _secure_sidecars(spec: dict[str, Json]) -> dict[str, Json]:
    """Containers that the template adds get the same security defaults, under whatever they say themselves."""
    secured = dict(spec)
    for key in ("containers", "initContainers"):
        containers = spec.get(key)
        if isinstance(containers, list):
            secured[key] = [_secured(container) for container in containers]
    return secured


def _secured(container: Json) -> Json:
    if not isinstance(container, dict):
        return container
    given = container.get("securityContext")
    return {**container, "securityContext": merge(CONTAINER_SECURITY, given if isinstance(given, dict) else {})}
