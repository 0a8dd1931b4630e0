"""The operator's rights, as a list: a right that is added must be added here, with a reason."""

from chart_support import Object, of_kind, only, render

FLEET_RIGHTS = {
    ("serving.headway.dev", "llmdeployments"): {"get", "list", "watch", "patch"},
    ("serving.headway.dev", "llmdeployments/status"): {"patch"},
    ("serving.headway.dev", "llmdeployments/finalizers"): {"update"},
    ("", "pods"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "services"): {"get", "list", "watch", "create", "patch"},
    ("", "serviceaccounts"): {"get", "list", "watch", "create", "patch"},
    ("policy", "poddisruptionbudgets"): {"get", "list", "watch", "create", "patch"},
    ("autoscaling", "horizontalpodautoscalers"): {"list"},  # those that target a fleet whose count is the operator's
    ("events.k8s.io", "events"): {"create"},
}


def rights(role: Object) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_the_rights_over_fleets_are_these_and_no_more() -> None:
    roles = of_kind(render("--set=rbac.aggregate=false"), "ClusterRole")
    assert [rights(role) for role in roles] == [FLEET_RIGHTS]


def test_the_same_rights_hold_in_one_namespace() -> None:
    objects = render("--set=rbac.aggregate=false,rbac.scope=namespace")
    role = next(item for item in of_kind(objects, "Role") if item["metadata"]["name"] == "headway-operator")
    assert rights(role) == FLEET_RIGHTS


def test_the_lease_is_the_one_the_operator_holds() -> None:
    from headway_operator.__main__ import LEASE_NAME

    role = next(item for item in of_kind(render(), "Role") if item["metadata"]["name"].endswith("-lease"))
    assert rights(role) == {("coordination.k8s.io", "leases"): {"create", "get", "update"}}
    named = [rule for rule in role["rules"] if rule.get("resourceNames")]
    assert [(rule["resourceNames"], rule["verbs"]) for rule in named] == [([LEASE_NAME], ["get", "update"])]


def test_every_kind_the_operator_reads_or_writes_is_covered() -> None:
    from headway_operator.shell.kube import RESOURCES

    covered = {resource for _, resource in FLEET_RIGHTS} | {"leases"}
    assert {resource.plural for resource in RESOURCES.values()} <= covered


def test_every_binding_points_at_a_role_that_is_there() -> None:
    objects = render()
    roles = {(item["kind"], item["metadata"]["name"]) for item in objects if item["kind"].endswith("Role")}
    account = only(objects, "ServiceAccount")["metadata"]
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    assert len(bindings) == 2
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        assert [(s["name"], s["namespace"]) for s in binding["subjects"]] == [(account["name"], account["namespace"])]


def test_viewers_read_and_editors_write_fleets() -> None:
    roles = {item["metadata"]["name"]: item for item in of_kind(render(), "ClusterRole")}
    view, edit = rights(roles["headway-view"]), rights(roles["headway-edit"])
    assert set().union(*view.values()) == {"get", "list", "watch"}
    assert edit["serving.headway.dev", "llmdeployments"] == {"create", "update", "patch", "delete", "deletecollection"}
    assert ("serving.headway.dev", "llmdeployments/status") not in edit, "the status is the operator's"
    labels = {
        name: {k for k in roles[name]["metadata"]["labels"] if "aggregate-to" in k}
        for name in ("headway-view", "headway-edit")
    }
    assert {label.rsplit("-", 1)[1] for label in labels["headway-view"]} == {"view", "edit", "admin"}
    assert {label.rsplit("-", 1)[1] for label in labels["headway-edit"]} == {"edit", "admin"}
