"""The JSON merge patch (RFC 7386) for a change of the fields that the model knows; all other fields of the object stay.

raw      the server's object, with fields that the model does not know
known    what the model knows of it
new      what it shall be
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = ("type", "name", "ip", "uid", "key", "address")
"""What identifies an item of a list."""
_LIST = (list, tuple)


def merge_patch(raw: Mapping[str, Any], known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Empty if nothing changes."""
    patch: dict[str, Any] = {}
    for field in {**known, **new}:
        before, after = known.get(field), new.get(field)
        if before == after:
            continue
        inner = raw.get(field)
        if isinstance(after, Mapping) and isinstance(inner, Mapping):
            patch[field] = merge_patch(inner, before or {}, after)
        else:
            patch[field] = _merged(inner, before, after)
    return patch


def _merged(raw: Any, known: Any, new: Any) -> Any:
    """A merge patch replaces lists: their items take the unknown fields with them."""
    if isinstance(new, Mapping) and isinstance(raw, Mapping) and isinstance(known, Mapping):
        gone = known.keys() - new.keys()
        kept = {field: value for field, value in raw.items() if field not in gone}
        return {**kept, **{field: _merged(raw.get(field), known.get(field), new[field]) for field in new}}
    if isinstance(new, _LIST) and isinstance(raw, _LIST) and isinstance(known, _LIST) and len(raw) == len(known):
        return [_merged(*_counterpart(item, raw, known), item) for item in new]
    return new


def _counterpart(item: Any, raw: Sequence[Any], known: Sequence[Any]) -> tuple[Any, Any]:
    """The item as it was: the equal one, else the one with the same identity."""
    if item in known:
        index = known.index(item)
        return raw[index], known[index]
    if isinstance(item, Mapping):
        for before, known_item in zip(raw, known, strict=True):
            if isinstance(known_item, Mapping) and _identity(item) == _identity(known_item) is not None:
                return before, known_item
    return None, None


def _identity(item: Mapping[str, Any]) -> tuple[str, Any] | None:
    return next(((key, item[key]) for key in _KEYS if key in item), None)
