"""One object of a person's file changes; every other byte stays."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from percale.errors import StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.kinds import KINDS
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import ObjectKey
from percale.model.workloads import Deployment
from percale.store.files.edit_in_place import merge, rewrite_object

FIRST = """\
# the first
apiVersion: v1
kind: ConfigMap
metadata: {name: a}   # by hand
data:
  x: "1"
  # between
  y: |
    text
"""
SECOND = """\
kind: ConfigMap      # the second
apiVersion: v1
metadata:
  name: b
immutable: true
data:
  x: "1"   # one
"""
THIRD = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {x: "1"}\n'


def change(text: str, name: str, data: dict[str, str] | None, file: str = "f.yaml") -> str:
    """The text after the ConfigMap of this name has (None: is gone, with) this data."""
    objects = {obj.metadata.name: obj for obj in decode_manifest(text.encode(), file).objects}
    obj = objects[name]
    assert isinstance(obj, ConfigMap)
    new = replace(obj, data=data) if data is not None else None
    return rewrite_object(text.encode(), file, (ConfigMap, ObjectKey("default", name)), new, kinds=KINDS).decode()


def test_a_document_between_others() -> None:
    text = FIRST + "---\n# about b\n" + SECOND + "# after b\n\n---   # and c\n" + THIRD
    after = change(text, "b", {"x": "2", "z": "3"})
    new = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: b\nimmutable: true\ndata:\n  x: '2'\n  z: '3'\n"
    assert after == FIRST + "---\n# about b\n" + new + "# after b\n\n---   # and c\n" + THIRD


def test_first_and_last() -> None:
    text = FIRST + "---\n" + THIRD.rstrip("\n")
    assert change(text, "c", {"x": "2"}).startswith(FIRST + "---\napiVersion: v1\n")
    assert change(text, "a", {"z": "a\nb\n"}) == (
        "# the first\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  z: |\n    a\n    b\n---\n"
        + THIRD.rstrip("\n")
    )


def test_a_document_is_taken_out() -> None:
    text = FIRST + "---\n" + SECOND + "---\n" + THIRD
    assert change(text, "b", None) == FIRST + "---\n---\n" + THIRD
    assert change(text, "a", None) == "# the first\n---\n" + SECOND + "---\n" + THIRD
    assert change(text, "c", None) == FIRST + "---\n" + SECOND + "---\n"


LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: a}   # one
# before b
-   apiVersion: v1
    kind: ConfigMap
    metadata: {name: b}
    data:
      x: "1"
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
# end
"""


def test_an_item_of_a_list() -> None:
    assert change(LIST, "b", {"x": "2"}) == LIST.replace(
        'metadata: {name: b}\n    data:\n      x: "1"', "metadata:\n      name: b\n    data:\n      x: '2'"
    )
    assert change(LIST, "c", {"x": "2"}) == LIST.replace(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}",
        '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "2"}}',
    )
    without = LIST.replace("- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}   # one\n", "")
    assert change(LIST, "a", None) == without
    emptied = change(change(without, "b", None), "c", None)
    assert emptied == "apiVersion: v1\nkind: List\nitems:\n# before b\n# end\n"
    assert decode_manifest(emptied.encode(), "f.yaml").objects == ()


def items(count: int) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}"}, "extra": [number]}
            for number in range(count)
        ],
    }
    return json.dumps(document, indent=4)


def test_an_item_of_a_json_list() -> None:
    text = items(3)
    after = change(text, "c1", {"x": "1"}, "f.json")
    assert json.loads(after)["items"][1] == json.loads(text)["items"][1] | {"data": {"x": "1"}}
    assert after[: text.index('"name": "c0"')] == text[: text.index('"name": "c0"')]
    assert after.endswith(text[text.index('"name": "c2"') :])
    for number in range(3):
        assert [
            item["metadata"]["name"] for item in json.loads(change(text, f"c{number}", None, "f.json"))["items"]
        ] == [f"c{each}" for each in range(3) if each != number]
    assert json.loads(change(items(1), "c0", None, "f.json"))["items"] == []


def test_line_ends_and_the_mark_at_the_beginning_stay() -> None:
    text = "\ufeff" + (FIRST + "---\n" + THIRD).replace("\n", "\r\n")
    after = change(text, "c", {"x": "2"})
    assert after.startswith("\ufeff" + FIRST.replace("\n", "\r\n") + "---\r\napiVersion: v1\r\n")
    assert after.count("\n") == after.count("\r\n")
    assert change(text, "a", None) == "\ufeff# the first\r\n---\r\n" + THIRD.replace("\n", "\r\n")


def test_a_value_that_another_object_borrows_is_refused() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: &d {x: '1'}}\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}, data: *d}\n"
    )
    assert "*d" not in change(text, "b", {"x": "2"})
    with pytest.raises(StoreUnavailable, match=r"f\.yaml:4: the object cannot be changed in this file; move it"):
        change(text, "a", {"x": "2"})


def test_what_percale_does_not_know_survives_a_scale() -> None:
    text = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: nginx
        resources: {limits: {cpu: 100m}}
"""
    obj = decode_manifest(text.encode(), "f.yaml").objects[0]
    assert isinstance(obj, Deployment)
    new = replace(obj, spec=replace(obj.spec, replicas=5))
    after = rewrite_object(text.encode(), "f.yaml", (Deployment, obj.key), new, kinds=KINDS).decode()
    assert "  replicas: 5\n" in after
    assert "Recreate" in after
    assert "cpu: 100m" in after


@pytest.mark.parametrize(
    ("written", "before", "after", "result"),
    [
        ({"a": 1, "u": 2}, {"a": 1}, {"a": 3}, {"a": 3, "u": 2}),
        ({"a": 1, "u": 2}, {"a": 1}, {}, {"u": 2}),
        ({"a": 1}, {"a": 1, "default": 0}, {"a": 1, "default": 0, "b": 2}, {"a": 1, "b": 2}),
        ({"l": [{"a": 1, "u": 2}]}, {"l": [{"a": 1}]}, {"l": [{"a": 2}]}, {"l": [{"a": 2, "u": 2}]}),
        ({"l": [{"name": "x", "u": 2}]}, {"l": [{"name": "x"}]}, {"l": [{"name": "y"}]}, {"l": [{"name": "y"}]}),
        ({"l": [1]}, {"l": [1]}, {"l": [1, 2]}, {"l": [1, 2]}),
    ],
)
def test_merged(written: object, before: object, after: object, result: object) -> None:
    assert merge(written, before, after) == result


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
pieces = st.lists(st.sampled_from(["# note\n", "\n", "   \n"]), max_size=2).map("".join)
styles: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        lambda name: f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  k: |\n    one\n    # two\n",
        lambda name: f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}  # x\ndata:\n  k:   # y\n",
        lambda name: f'{{"apiVersion": "v1", "kind": "ConfigMap",\n  "metadata": {{"name": "{name}"}}}}\n',
        lambda name: f"metadata:\n  name: {name}\nkind: ConfigMap\nunknown:\n- a\n- b\napiVersion: v1\n",
    ]
)


@given(st.lists(st.tuples(pieces, styles, pieces), min_size=1, max_size=4), st.data())
def test_any_file(parts: list[tuple[str, Callable[[str], str], str]], data: st.DataObject) -> None:
    documents = [before + style(f"n{number}") + after for number, (before, style, after) in enumerate(parts)]
    chosen = data.draw(st.integers(0, len(documents) - 1))
    content = data.draw(st.none() | st.dictionaries(texts, texts, max_size=2))
    after = change("---\n".join(documents), f"n{chosen}", content)
    head, tail = documents[:chosen], documents[chosen + 1 :]
    assert after.startswith("".join(each + "---\n" for each in head) + parts[chosen][0])
    assert after.endswith(parts[chosen][2] + "".join("---\n" + each for each in tail))
