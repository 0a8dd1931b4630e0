"""What the chart renders, over combinations of values."""

import itertools
import re

import pytest
import yaml
from chart_support import Object, env, notes, of_kind, only, operator_pod, render

CHOICES = {
    "rbac.scope": ("cluster", "namespace"),
    "rbac.aggregate": ("true", "false"),
    "crds.install": ("true", "false"),
    "operator.replicas": ("1", "3"),
    "networkPolicy.enabled": ("true", "false"),
    "metrics.service": ("true", "false"),
}
PROFILES = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
# Every pair of choices occurs in the sample; all 64 would take a quarter of a minute.
SAMPLE = PROFILES[:: len(PROFILES) // 8] + PROFILES[7 :: len(PROFILES) // 8]
KNOWN = {
    "apps/v1": {"Deployment"},
    "v1": {"Service", "ServiceAccount"},
    "policy/v1": {"PodDisruptionBudget"},
    "networking.k8s.io/v1": {"NetworkPolicy"},
    "rbac.authorization.k8s.io/v1": {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"},
    "apiextensions.k8s.io/v1": {"CustomResourceDefinition"},
}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def options(profile: dict[str, str]) -> list[str]:
    return [f"--set={name}={value}" for name, value in profile.items()]


def name_of(profile: dict[str, str]) -> str:
    return "-".join(profile.values())


@pytest.fixture(scope="module", params=SAMPLE, ids=name_of)
def profile(request: pytest.FixtureRequest) -> dict[str, str]:
    chosen: dict[str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def objects(profile: dict[str, str]) -> list[Object]:
    return render(*options(profile))


def test_every_object_is_of_a_known_kind_in_the_release_namespace_with_a_unique_name(objects: list[Object]) -> None:
    identities = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(set(identities)) == len(identities)
    for item in objects:
        assert item["kind"] in KNOWN[item["apiVersion"]]
        wanted = None if item["kind"] in CLUSTER_WIDE else "headway-system"
        assert item["metadata"].get("namespace") == wanted
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", item["metadata"]["name"])


def test_the_pods_meet_the_restricted_profile(objects: list[Object]) -> None:
    pod = operator_pod(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "projected"} for volume in pod["volumes"])
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all("hostPort" not in port for port in container["ports"])


def test_selectors_find_the_pods(objects: list[Object]) -> None:
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [only(objects, "Deployment")["spec"]["selector"]["matchLabels"]]
    selectors += [item["spec"]["selector"] for item in of_kind(objects, "Service")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(objects, "NetworkPolicy")]
    assert all(selector.items() <= labels for selector in selectors)
    assert all("app.kubernetes.io/version" not in selector for selector in selectors), "an upgrade changes it"


def test_each_switch_has_its_effect(profile: dict[str, str], objects: list[Object]) -> None:
    assert len(of_kind(objects, "CustomResourceDefinition")) == (profile["crds.install"] == "true")
    assert len(of_kind(objects, "PodDisruptionBudget")) == (profile["operator.replicas"] == "3")
    assert len(of_kind(objects, "NetworkPolicy")) == (profile["networkPolicy.enabled"] == "true")
    assert len(of_kind(objects, "Service")) == (profile["metrics.service"] == "true")
    roles = 2 * (profile["rbac.aggregate"] == "true") + (profile["rbac.scope"] == "cluster")
    assert len(of_kind(objects, "ClusterRole")) == roles
    watched = "headway-system" if profile["rbac.scope"] == "namespace" else ""
    assert env(objects)["HEADWAY_WATCH_NAMESPACE"] == watched


def test_a_namespaced_release_needs_no_cluster_wide_right() -> None:
    objects = render("--set=rbac.scope=namespace,rbac.aggregate=false,crds.install=false")
    assert not {item["kind"] for item in objects} & CLUSTER_WIDE


def test_the_crd_is_the_generated_one_and_outlives_the_release() -> None:
    crd = only(render(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    from manifests import ROOT

    assert crd == yaml.safe_load((ROOT / "deploy/crd/llmdeployments.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("", "registry.headway.local/headway-engine:0.1.0"),
        ("engine.image.tag=abc", "registry.headway.local/headway-engine:abc"),
        (
            f"engine.image.tag=abc,engine.image.digest=sha256:{'0' * 64}",
            f"registry.headway.local/headway-engine@sha256:{'0' * 64}",
        ),
        ("engine.image.repository=host:5000/x/y,engine.image.tag=1", "host:5000/x/y:1"),
    ],
)
def test_engine_pods_get_the_image_by_digest_before_tag(values: str, image: str) -> None:
    assert env(render(f"--set-string={values}"))["HEADWAY_ENGINE_IMAGE"] == image


def test_the_operator_understands_every_variable_it_gets() -> None:
    from headway_operator.settings import Settings

    objects = render("--set=rbac.scope=namespace,operator.logLevel=DEBUG,engine.image.pullPolicy=Never")
    settings = Settings.from_env({**env(objects), "HEADWAY_NAMESPACE": "headway-system", "HEADWAY_POD_NAME": "pod-1"})
    assert settings.watch_namespace == "headway-system"
    assert settings.engine_image == "registry.headway.local/headway-engine:0.1.0"
    assert settings.engine_image_pull_policy == "Never"
    assert settings.log_level == "DEBUG"
    (container,) = operator_pod(objects)["containers"]
    assert settings.http_port == container["ports"][0]["containerPort"]
    references = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in container["env"] if "valueFrom" in e}
    assert references == {"HEADWAY_NAMESPACE": "metadata.namespace", "HEADWAY_POD_NAME": "metadata.name"}


def test_the_operators_extras_reach_the_pod() -> None:
    objects = render(
        "--set=operator.priorityClassName=high,operator.podLabels.team=a,operator.podAnnotations.note=b",
        "--set=operator.nodeSelector.disk=ssd,operator.imagePullSecrets[0].name=key,commonLabels.cost=c",
        "--set=operator.tolerations[0].key=gpu,operator.tolerations[0].operator=Exists",
        "--set-string=operator.extraEnv[0].name=HEADWAY_STALL_S,operator.extraEnv[0].value=60",
        "--set=operator.resources.limits.memory=1Gi,serviceAccount.annotations.role=x",
    )
    pod = operator_pod(objects)
    template = only(objects, "Deployment")["spec"]["template"]["metadata"]
    assert pod["priorityClassName"] == "high"
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["imagePullSecrets"] == [{"name": "key"}]
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    assert (template["labels"]["team"], template["annotations"]["note"]) == ("a", "b")
    assert env(objects)["HEADWAY_STALL_S"] == "60"
    assert only(objects, "ServiceAccount")["metadata"]["annotations"] == {"role": "x"}
    assert all(
        item["metadata"]["labels"]["cost"] == "c" for item in objects if item["kind"] != "CustomResourceDefinition"
    )


GATEWAY = "--set=gateway.engines={chat-engines.demo.svc:50051,code-engines.demo.svc:50051}"


def gateway_objects(*options: str) -> dict[str, Object]:
    """The gateway's objects by kind."""
    found = [item for item in render(GATEWAY, *options) if item["metadata"]["name"] == "headway-gateway"]
    return {item["kind"]: item for item in found}


def test_a_gateway_appears_only_in_front_of_engines() -> None:
    assert not [item for item in render() if "gateway" in item["metadata"]["name"]]
    assert set(gateway_objects()) == {"Deployment", "Service", "PodDisruptionBudget"}
    assert set(gateway_objects("--set=gateway.replicas=1")) == {"Deployment", "Service"}


def test_the_gateway_understands_its_flags_and_is_given_the_time_that_its_drain_takes() -> None:
    from headway_gateway.settings import parse

    times = "gateway.requestTimeoutSeconds=86400,gateway.drainDelaySeconds=20,gateway.drainTimeoutSeconds=40"
    pod = gateway_objects(f"--set={times}")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = parse(container["args"])
    assert settings.engines == ("chat-engines.demo.svc:50051", "code-engines.demo.svc:50051")
    assert (settings.request_timeout_s, settings.drain_delay_s, settings.drain_timeout_s) == (86400, 20, 40)
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    assert container["image"] == "registry.headway.local/headway-operator:0.1.0"
    assert pod["terminationGracePeriodSeconds"] == 20 + 40 + 10


def test_the_gateway_meets_the_restricted_profile_and_has_no_rights() -> None:
    pod = gateway_objects()["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["seccompProfile"]["type"]) == (
        True,
        "RuntimeDefault",
    )
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})


def test_the_gateway_and_the_operator_are_selected_apart() -> None:
    objects = render(GATEWAY, "--set=networkPolicy.enabled=true,commonLabels.cost=c")
    labels = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in of_kind(objects, "Deployment")
    }
    selectors = [item["spec"]["selector"] for item in of_kind(objects, "Service")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "PodDisruptionBudget")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "Deployment")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(objects, "NetworkPolicy")]
    chosen = [[name for name, own in labels.items() if one.items() <= own.items()] for one in selectors]
    assert sorted(chosen) == [["headway-gateway"]] * 3 + [["headway-operator"]] * 4
    assert all(own["cost"] == "c" for own in labels.values())


def test_a_service_monitor_appears_only_where_its_api_exists() -> None:
    assert of_kind(render("--set=metrics.serviceMonitor.enabled=true"), "ServiceMonitor") == []
    with_api = render("--set=metrics.serviceMonitor.enabled=true", "--api-versions=monitoring.coreos.com/v1")
    assert only(with_api, "ServiceMonitor")["spec"]["endpoints"][0]["interval"] == "30s"
    assert only(with_api, "ServiceMonitor")["spec"]["endpoints"][0]["honorLabels"] is True
    assert of_kind(render("--api-versions=monitoring.coreos.com/v1"), "ServiceMonitor") == []


@pytest.mark.parametrize("asked", ["metrics.serviceMonitor.enabled", "metrics.prometheusRule.enabled"])
def test_what_is_left_out_for_want_of_its_api_is_told(asked: str) -> None:
    assert "No ServiceMonitor and no PrometheusRule, although asked for" in notes(f"--set={asked}=true")
    assert "ServiceMonitor" not in notes()


def test_alerts_appear_on_request_and_only_where_their_api_exists() -> None:
    from manifests import ALERTS

    assert of_kind(render("--set=metrics.prometheusRule.enabled=true"), "PrometheusRule") == []
    assert of_kind(render("--api-versions=monitoring.coreos.com/v1"), "PrometheusRule") == []
    objects = render(
        "--set=metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.release=mine",
        "--api-versions=monitoring.coreos.com/v1",
    )
    rule = only(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert rule["metadata"]["labels"]["release"] == "mine"


def test_an_existing_service_account_is_used_and_not_made() -> None:
    objects = render("--set=serviceAccount.create=false,serviceAccount.name=mine")
    assert of_kind(objects, "ServiceAccount") == []
    assert operator_pod(objects)["serviceAccountName"] == "mine"
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    assert {subject["name"] for binding in bindings for subject in binding["subjects"]} == {"mine"}
