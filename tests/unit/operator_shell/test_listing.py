"""A LIST answer read object by object: the same as parsing it whole, however it is written."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway_operator.shell.listing import json_object, read_list

# What could be taken for the border of two objects, for the list's begin or for its end.
TRAPS = st.sampled_from([',{"metadata":{', '"items":[', "]}", '\\"items":[', 'a"items', "\\", "é\n"])
TEXT = TRAPS | st.text(max_size=5)
KEYS = st.sampled_from(["metadata", "items", "name"]) | TEXT
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.builds(
    lambda metadata, rest: {"metadata": metadata, **rest},
    st.dictionaries(KEYS, VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["spec", "status"]), VALUES),
)
FRAMES = st.dictionaries(KEYS.filter(lambda key: key != "items"), VALUES, max_size=3)


@given(
    before=FRAMES, items=st.lists(OBJECTS, max_size=4), after=FRAMES, compact=st.booleans(), ascii_only=st.booleans()
)
@example(before={}, items=[{"metadata": {}, "spec": [{}, {"metadata": {}}]}], after={}, compact=True, ascii_only=True)
@example(before={'a"items': [{}]}, items=[{"metadata": {}}], after={}, compact=True, ascii_only=True)
@example(before={}, items=[{"metadata": {}}], after={"x": []}, compact=True, ascii_only=True)
def test_an_answer_read_by_object_is_the_answer_parsed_whole(
    before: dict[str, Any], items: list[dict[str, Any]], after: dict[str, Any], compact: bool, ascii_only: bool
) -> None:
    answer = {**before, "items": items, **after}
    text = json.dumps(answer, separators=(",", ":") if compact else None, ensure_ascii=ascii_only) + "\n"
    frame, found = read_list(text, json_object)
    assert list(found) == items
    assert {key: value for key, value in frame.items() if key != "items"} == {
        key: value for key, value in answer.items() if key != "items"
    }


def test_an_object_that_did_not_change_has_the_same_text_in_the_next_answer() -> None:
    def answer(version: int, *names: str) -> str:
        items = [{"metadata": {"name": name}, "spec": {"é": '"'}} for name in names]
        page = {"kind": "PodList", "metadata": {"resourceVersion": str(version)}, "items": items}
        return json.dumps(page, separators=(",", ":"), ensure_ascii=False)

    def texts(page: str) -> tuple[str, ...]:
        return read_list(page, lambda text: text)[1]

    assert set(texts(answer(1, "a", "b", "c"))) & set(texts(answer(2, "b", "d"))) == {texts(answer(3, "b"))[0]}


def test_a_list_without_objects_may_be_null() -> None:
    assert read_list('{"metadata":{"resourceVersion":"7"},"items":null}', json_object)[1] == ()


@pytest.mark.parametrize("answer", ["", "<html>Please log in</html>", "[]", '{"items":[1]}', '{"items":[{}', "null"])
def test_what_is_no_list_of_objects_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"JSON object|Expecting"):
        read_list(answer, json_object)
