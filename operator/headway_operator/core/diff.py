"""Whether a live object still has what we want: only the fields we set are compared.

The API server fills in defaults, other controllers add fields, a user adds a label: none of that is ours, so none of it
is a difference. An idle fleet therefore costs no write, and a real drift is found whatever field it is in.
"""

from collections.abc import Mapping

from headway_operator.core.plan import Json


def first_difference(desired: Mapping[str, Json], live: Mapping[str, Json], path: str = "") -> str | None:
    """The path of the first field of `desired` that `live` lacks or has otherwise; None when all are there."""
    for key in sorted(desired):
        here = f"{path}.{key}" if path else key
        found = _difference(desired[key], live.get(key), here)
        if found is not None:
            return found
    return None


def _difference(desired: Json, live: Json, path: str) -> str | None:
    match desired, live:
        case dict(), dict():
            return first_difference(desired, live, path)
        case dict() | list(), None if not desired:
            return None  # the server leaves empty maps and lists out
        case list(), list() if path.endswith("ownerReferences"):
            missing = [owner for owner in desired if not _contains(live, owner)]
            return path if missing else None
        case list(), list():
            if len(desired) != len(live):
                return path
            pairs = zip(desired, live, strict=True)
            found = (_difference(want, have, f"{path}[{index}]") for index, (want, have) in enumerate(pairs))
            return next((one for one in found if one is not None), None)
        case _:
            return None if desired == live else path


def _contains(items: list[Json], wanted: Json) -> bool:
    return any(_difference(wanted, item, "") is None for item in items)
