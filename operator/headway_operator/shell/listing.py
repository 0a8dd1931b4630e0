"""A LIST answer read object by object, each from its own JSON text: what did not change need not be parsed again.

The API server writes compact JSON, `metadata` first in each object, so `,{"metadata":{` is where the next one begins: no
string can hold that, as quotes inside strings are escaped. An object inside an object can; cut there, what is left is no
JSON. So the cut proves itself: where each text is one JSON object, and so is the frame around them, these are the
objects, because JSON can be read in one way only. Where one is not, the whole answer is parsed instead.
"""

import contextlib
import json
from collections.abc import Callable
from typing import TypeVar

from headway_operator.core.plan import Manifest

T = TypeVar("T")

_ITEMS = '"items":['
_NEXT = ',{"metadata":{'


def read_list(answer: str, read: Callable[[str], T]) -> tuple[Manifest, tuple[T, ...]]:
    """The answer's frame, and what `read` makes of each object's text; it must refuse what is no JSON object.

    Raises:
        ValueError: the answer is no list of JSON objects, or `read` refused one of them.
    """
    cut = _cut(answer)
    if cut is not None:
        frame, texts = cut
        with contextlib.suppress(ValueError):
            return frame, tuple(read(text) for text in texts)
    frame = json_object(answer)
    items = frame.get("items")
    # Go writes a list without objects as null.
    return frame, tuple(read(json.dumps(item)) for item in (items if isinstance(items, list) else ()))


def json_object(text: str) -> Manifest:
    """The JSON object that a text is.

    Raises:
        ValueError: it is something else.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {text[:80]}")  # noqa: TRY004  the text is wrong, not its type
    return value


def _cut(answer: str) -> tuple[Manifest, tuple[str, ...]] | None:
    """The frame, and where the objects seem to be; None where the frame shows that the answer is written otherwise."""
    head, _, rest = answer.partition(_ITEMS)
    body = rest.rstrip()
    try:
        frame = json_object(f"{head}{_ITEMS}]}}")
    except ValueError:
        return None
    if frame.get("items") != [] or not body.endswith("]}"):
        return None
    first, *others = body[:-2].split(_NEXT)
    return frame, (first, *(_NEXT[1:] + other for other in others)) if first else ()
