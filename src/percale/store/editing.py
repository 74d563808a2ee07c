"""Changing one object inside a file that a person wrote: only its document's text changes, and in it only what differs.

Fields that we do not know stay. `files` calls this for objects that live in such a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from percale.model.decoding import DEFAULT_NAMESPACE, read_nodes
from percale.model.encoding import plain_to_yaml
from percale.model.meta import ObjectKey
from percale.model.tree import Node, plain_value


def edited(text: str, file: str, kind: str, key: ObjectKey, change: Callable[[Any], Any | None]) -> str:
    """The file's text after `change` of the object's document; None from it takes the object away. Raises BadManifest."""
    is_json = file.endswith(".json")
    for node in read_nodes(text, file):
        value = plain_value(node, len(text), file)
        if not _holds(value, kind, key):
            continue
        new = _changed(value, kind, key, change)
        start, end = _whole_lines(text, node)
        if new is None:
            return _without(text, start, end)
        return text[:start] + (_as_json(new) if is_json else plain_to_yaml(new)) + text[end:]
    return text


def _holds(value: Any, kind: str, key: ObjectKey) -> bool:
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("items"), list) and str(value.get("kind", "")).endswith("List"):
        return any(_is(item, kind, key) for item in value["items"])
    return _is(value, kind, key)


def _is(value: Any, kind: str, key: ObjectKey) -> bool:
    if not isinstance(value, dict) or value.get("kind") != kind:
        return False
    metadata = value.get("metadata", {})
    namespace = (metadata.get("namespace") or DEFAULT_NAMESPACE) if key.namespace is not None else None
    return (namespace, metadata.get("name")) == key


def _changed(value: Any, kind: str, key: ObjectKey, change: Callable[[Any], Any | None]) -> Any | None:
    if _is(value, kind, key):
        return change(value)
    items = [change(item) if _is(item, kind, key) else item for item in value["items"]]
    kept = [item for item in items if item is not None]
    return {**value, "items": kept} if kept else None


def _whole_lines(text: str, node: Node) -> tuple[int, int]:
    start = text.rfind("\n", 0, node.start) + 1
    end = text.find("\n", node.end)
    return start, len(text) if end < 0 else end + 1


def _without(text: str, start: int, end: int) -> str:
    """Takes one separator along, for there is one less document."""
    before, after = text[:start], text[end:]
    if before.rstrip().endswith("---"):
        return before.rstrip().removesuffix("---") + after
    return before + after.lstrip("\n").removeprefix("---\n")


def _as_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def patched(raw: Any, old: Any, new: Any) -> Any:
    """`raw` with the differences from `old` to `new`: what neither of them knows stays."""
    if not (isinstance(raw, dict) and isinstance(old, dict) and isinstance(new, dict)):
        return raw if old == new else new
    kept = {name: value for name, value in raw.items() if name in new or name not in old}
    return kept | {
        name: patched(raw.get(name), old.get(name), value) for name, value in new.items() if value != old.get(name)
    }
