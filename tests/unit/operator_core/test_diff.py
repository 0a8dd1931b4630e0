"""Only the fields we set are compared."""

from fleet_world import spec

from headway_operator.api.v1alpha1 import LLMDeployment
from headway_operator.core import desired
from headway_operator.core.diff import first_difference

FLEET = LLMDeployment.model_validate(
    {"metadata": {"name": "chat", "namespace": "default", "uid": "u-1", "generation": 1}, "spec": spec()}
)
SERVICE = desired.children(FLEET, 2)[1]


def served(**changes: object) -> dict:
    """The Service as the API server would return it."""
    port = {**SERVICE["spec"]["ports"][0], "nodePort": 0}
    meta = {**SERVICE["metadata"], "resourceVersion": "7", "labels": {**SERVICE["metadata"]["labels"], "team": "x"}}
    other = {"uid": "u-9", "kind": "Other", "name": "o", "apiVersion": "v1"}
    meta["ownerReferences"] = [other, *SERVICE["metadata"]["ownerReferences"]]
    spec_ = {**SERVICE["spec"], "ports": [port], "clusterIP": "10.0.0.9", "sessionAffinity": "None", **changes}
    return {**SERVICE, "metadata": meta, "spec": spec_}


def test_server_defaults_and_foreign_labels_are_no_difference():
    assert first_difference(SERVICE, served()) is None


def test_changed_field_is_named():
    assert first_difference(SERVICE, served(selector={"a": "b"})) == "spec.selector.serving.headway.dev/fleet"


def test_extra_element_of_a_list_we_own_is_a_difference():
    ports = [*served()["spec"]["ports"], {"name": "more", "port": 1}]
    assert first_difference(SERVICE, served(ports=ports)) == "spec.ports"


def test_missing_owner_reference_is_a_difference():
    live = served()
    live["metadata"]["ownerReferences"] = []
    assert first_difference(SERVICE, live) == "metadata.ownerReferences"


def test_empty_map_equals_an_absent_one():
    assert first_difference({"spec": {"labels": {}}}, {"spec": {}}) is None
