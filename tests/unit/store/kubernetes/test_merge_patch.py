"""Changes keep what the model does not know."""

from __future__ import annotations

from typing import Any

import pytest

from percale.store.kubernetes.merge_patch import merge_patch


@pytest.mark.parametrize(
    ("raw", "known", "new", "patch"),
    [
        ({"a": 1, "x": 9}, {"a": 1}, {"a": 1}, {}),
        ({"a": 1, "x": 9}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "x": 9}, {"a": 1}, {}, {"a": None}),
        ({"m": {"a": 1, "x": 9}}, {"m": {"a": 1}}, {"m": {"a": 2}}, {"m": {"a": 2}}),
        ({"x": 9}, {}, {"m": {"a": 1}}, {"m": {"a": 1}}),
        ({"l": [1, 2]}, {"l": [1, 2]}, {"l": [2]}, {"l": [2]}),
    ],
)
def test_fields(raw: Any, known: Any, new: Any, patch: Any) -> None:
    assert merge_patch(raw, known, new) == patch


def test_items_of_lists_keep_their_unknown_fields() -> None:
    raw = {
        "conditions": [{"type": "Ready", "status": "True", "beat": 1}, {"type": "Disk", "status": "False", "beat": 2}]
    }
    known = {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]}
    new = {
        "conditions": [{"type": "Net", "status": "False"}, {"type": "Ready", "status": "False"}, known["conditions"][1]]
    }
    assert merge_patch(raw, known, new) == {
        "conditions": [
            {"type": "Net", "status": "False"},
            {"type": "Ready", "status": "False", "beat": 1},
            {"type": "Disk", "status": "False", "beat": 2},
        ]
    }


def test_a_field_of_an_item_goes_and_a_nested_list_stays() -> None:
    raw = {"l": [{"name": "a", "gone": 1, "deep": [{"name": "b", "x": 9}], "y": 8}]}
    known = {"l": [{"name": "a", "gone": 1, "deep": [{"name": "b"}]}]}
    new = {"l": [{"name": "a", "deep": [{"name": "b"}]}]}
    assert merge_patch(raw, known, new) == {"l": [{"name": "a", "deep": [{"name": "b", "x": 9}], "y": 8}]}
