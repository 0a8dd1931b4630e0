"""The user's partial pod spec over ours: a strategic merge with the keys a pod spec needs.

Maps merge, scalars are replaced, null removes a key. Lists of named things merge by name, so naming the container
`engine` changes ours instead of adding a second one. Tolerations and spread constraints are appended. Any other list is
replaced as a whole. What the user does not mention stays, the security defaults above all.
"""

from collections.abc import Mapping, Sequence

from headway_operator.core.plan import Json

# The field that identifies an element of each list that merges.
MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
APPENDED = frozenset({"tolerations", "topologySpreadConstraints"})


def merge(base: Mapping[str, Json], override: Mapping[str, Json]) -> dict[str, Json]:
    """`base` with `override` merged over it; neither is changed."""
    merged = dict(base)
    for key, value in override.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(key, merged.get(key), value)
    return merged


def _merge_value(key: str, base: Json, value: Json) -> Json:
    match base, value:
        case dict(), dict():
            return merge(base, value)
        case list(), list() if key in APPENDED:
            return [*base, *(item for item in value if item not in base)]
        case list(), list() if key in MERGE_KEYS:
            return _merge_list(MERGE_KEYS[key], base, value)
        case _:
            return value


def _merge_list(key: str, base: Sequence[Json], override: Sequence[Json]) -> list[Json]:
    result = list(base)
    for item in override:
        position = _position(result, key, item)
        if position is None:
            result.append(item)
        else:
            ours = result[position]
            result[position] = merge(ours, item) if isinstance(ours, dict) and isinstance(item, dict) else item
    return result


def _position(items: Sequence[Json], key: str, wanted: Json) -> int | None:
    if not isinstance(wanted, dict) or key not in wanted:
        return None
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get(key) == wanted[key]:
            return index
    return None
