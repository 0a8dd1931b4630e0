"""Who owns spec.replicas, as a real API server keeps it, and what that says about rivals."""

from typing import Any

import pytest
from apiserver import ApiServer
from rule_examples import changed

from headway_operator.api.v1alpha1 import ScalingMode
from headway_operator.core.rivals import of_replicas

pytestmark = pytest.mark.apiserver


def scaled(apiserver: ApiServer, fleets: str, mode: str, manager: str) -> dict[str, Any]:
    """A fleet that was created with one replica, after `manager` has set five through the scale subresource."""
    apiserver.api.create(fleets, changed({"spec.scaling.mode": mode, "spec.replicas": 1})).ok()
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "chat"}, "spec": {"replicas": 5}}
    apiserver.api.send("PUT", f"{fleets}/chat/scale?fieldManager={manager}", scale).ok()
    found: dict[str, Any] = apiserver.api.get(f"{fleets}/chat").ok()
    assert found["spec"]["replicas"] == 5
    return found


def test_an_autoscaler_that_writes_a_count_that_is_not_handed_over_is_named(apiserver: ApiServer, fleets: str) -> None:
    found = scaled(apiserver, fleets, "Off", "kube-controller-manager")
    (sentence,) = of_replicas(found, ScalingMode.OFF)
    assert sentence.startswith("kube-controller-manager writes spec.replicas through the scale subresource")


def test_the_autoscaler_of_an_external_fleet_is_no_rival_and_a_person_is_none_either(
    apiserver: ApiServer, fleets: str
) -> None:
    external = scaled(apiserver, fleets, "External", "kube-controller-manager")
    assert list(of_replicas(external, ScalingMode.EXTERNAL)) == []
    apiserver.api.send("DELETE", f"{fleets}/chat").ok()
    assert list(of_replicas(scaled(apiserver, fleets, "Off", "kubectl"), ScalingMode.OFF)) == []


def test_a_manifest_that_goes_on_naming_the_count_of_an_external_fleet_is_a_second_owner(
    apiserver: ApiServer, fleets: str
) -> None:
    scaled(apiserver, fleets, "External", "kube-controller-manager")
    applied = changed({"spec.scaling.mode": "External", "spec.replicas": 5})
    found = apiserver.api.apply(f"{fleets}/chat", applied, "argocd", force=True).ok()
    (sentence,) = of_replicas(found, ScalingMode.EXTERNAL)
    assert "belongs to kube-controller-manager (scale subresource) and to argocd as well" in sentence
