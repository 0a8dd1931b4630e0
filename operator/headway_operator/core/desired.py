"""The objects beside the pods: two Services, a ServiceAccount, a PodDisruptionBudget.

All carry the fleet's labels and a controller reference, so the garbage collector removes them with the fleet. Equal
input gives equal output, to the byte.
"""

from headway_operator.api.v1alpha1 import LLMDeployment
from headway_operator.core import names
from headway_operator.core.plan import Json


def owner_reference(fleet: LLMDeployment) -> dict[str, Json]:
    """The controller reference of every object of the fleet."""
    return {
        "apiVersion": names.API_VERSION,
        "blockOwnerDeletion": True,
        "controller": True,
        "kind": names.KIND,
        "name": fleet.metadata.name,
        "uid": fleet.metadata.uid,
    }


def endpoint(fleet: LLMDeployment) -> str:
    """The gRPC address that clients inside the cluster use."""
    return f"{names.service_name(fleet.metadata.name)}.{fleet.metadata.namespace}.svc:{names.PORT_GRPC}"


def children(fleet: LLMDeployment, replicas: int) -> tuple[dict[str, Json], ...]:
    """Every child but the pods, in the order in which they are applied."""
    return (
        _service_account(fleet),
        _service(fleet),
        _engines_service(fleet),
        _disruption_budget(fleet, replicas),
    )


def _object(fleet: LLMDeployment, api_version: str, kind: str, name: str) -> dict[str, Json]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": fleet.metadata.namespace,
            "labels": names.fleet_labels(fleet.metadata.name),
            "ownerReferences": [owner_reference(fleet)],
        },
    }


def _service_account(fleet: LLMDeployment) -> dict[str, Json]:
    account = _object(fleet, "v1", "ServiceAccount", fleet.metadata.name)
    return {**account, "automountServiceAccountToken": False}


def _service(fleet: LLMDeployment) -> dict[str, Json]:
    service = _object(fleet, "v1", "Service", names.service_name(fleet.metadata.name))
    service["spec"] = {
        "ports": [_port("grpc", names.PORT_GRPC)],
        "selector": {names.LABEL_FLEET: fleet.metadata.name, names.LABEL_SERVING: "true"},
        "type": "ClusterIP",
    }
    return service


def _engines_service(fleet: LLMDeployment) -> dict[str, Json]:
    service = _object(fleet, "v1", "Service", names.engines_service_name(fleet.metadata.name))
    service["spec"] = {
        "clusterIP": "None",
        "ports": [_port("grpc", names.PORT_GRPC), _port("control", names.PORT_CONTROL)],
        "publishNotReadyAddresses": True,
        "selector": {names.LABEL_FLEET: fleet.metadata.name},
        "type": "ClusterIP",
    }
    return service


def _port(name: str, number: int) -> dict[str, Json]:
    return {"appProtocol": "kubernetes.io/h2c", "name": name, "port": number, "protocol": "TCP", "targetPort": name}


def _disruption_budget(fleet: LLMDeployment, replicas: int) -> dict[str, Json]:
    budget = _object(fleet, "policy/v1", "PodDisruptionBudget", fleet.metadata.name)
    budget["spec"] = {
        # A plain number: for pods of a custom controller, maxUnavailable would need spec.replicas behind /scale, and
        # that is unset while the operator owns the count. One replica may be evicted at a time, also the only one.
        "minAvailable": max(0, replicas - 1),
        "selector": {"matchLabels": {names.LABEL_FLEET: fleet.metadata.name, names.LABEL_SERVING: "true"}},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return budget
