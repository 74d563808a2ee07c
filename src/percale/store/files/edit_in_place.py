"""Changes or deletes one object in a user's file; the rest of the file stays byte for byte. Pure.

Fields unknown to Percale stay too. Called by `directory.py`.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any, TypeAlias

from percale.errors import BadManifest, StoreUnavailable
from percale.model.kinds import Kinds
from percale.model.manifest.decode import ManifestEntry, Source, decode_manifest, object_node, text_of
from percale.model.manifest.encode import to_plain
from percale.model.manifest.syntax_tree import Node, plain_value
from percale.model.meta import Object, ObjectKey

Identity: TypeAlias = tuple[type[Object], ObjectKey]

_AFTER_DASH = re.compile(r"(?:^|\n) *-\s+\Z")
_COMMA = re.compile(r"\s*,\s*")
_NOT_IN_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters allowed in JSON but not in YAML."""
_LAST_COMMA = re.compile(r"\s*,\s*\Z")


def rewrite_object(data: bytes, file: str, identity: Identity, new: Object | None, *, kinds: Kinds) -> bytes:
    """The file with the object replaced by `new`, or deleted (None). Raises BadManifest, StoreUnavailable."""
    wanted = {_identity(each): each for each in decode_manifest(data, file, kinds=kinds).entries}
    found = wanted[identity]
    node = object_node(data, found.source)
    assert node is not None
    text = text_of(data, file)
    if new is None:
        changed = _without(text, node, in_list=found.source.item is not None)
    else:
        plain = merge(plain_value(node, len(text), str(found.source)), to_plain(found.object), to_plain(new))
        changed = _with(text, node, plain)
    result = (BOM_UTF8 if data.startswith(BOM_UTF8) else b"") + changed.encode()
    objects = {identity: each.object for identity, each in wanted.items() if each is not found}
    if new is not None:
        objects[identity] = new
    _check(result, objects, found.source, kinds)
    return result


def merge(written: Any, before: Any, after: Any) -> Any:
    """The written value with the change from `before` to `after`, which have only the known fields."""
    if before == after:
        return written
    if isinstance(written, dict) and isinstance(before, dict) and isinstance(after, dict):
        if before.get("name") != after.get("name"):
            return after  # a different container or port
        kept = {key: value for key, value in written.items() if key in after or key not in before}
        added = {key: value for key, value in after.items() if key not in written and before.get(key) != value}
        return {key: merge(value, before.get(key), after.get(key)) for key, value in kept.items()} | added
    lists = isinstance(written, list) and isinstance(before, list) and isinstance(after, list)
    if lists and len(written) == len(before) == len(after):
        return [merge(*each) for each in zip(written, before, after, strict=True)]
    return after


def _with(text: str, node: Node, plain: Any) -> str:
    if node.flow:
        end = node.end
        indent = 2 if "\n" in text[node.start : end] else None
        body = json.dumps(plain, ensure_ascii=False, indent=indent)
        body = _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", body)
        line = text[: node.start].rpartition("\n")[2]
        column = len(line) - len(line.lstrip(" "))
    else:
        end = _end_of_lines(text, node)
        from percale.model.manifest.yaml_writer import plain_to_yaml  # noqa: PLC0415 -- most agents write none

        body = plain_to_yaml(plain).rstrip("\n")
        column = node.column
    body = body.replace("\n", "\n" + " " * column)
    if "\r\n" in text:
        body = body.replace("\n", "\r\n")
    return text[: node.start] + body + text[end:]


def _without(text: str, node: Node, *, in_list: bool) -> str:
    if node.flow and not (in_list and _AFTER_DASH.search(text[: node.start])):
        return _without_flow(text, node, in_list=in_list)
    start = text.rindex("-", 0, node.start) if in_list else node.start
    line = text.rfind("\n", 0, start) + 1
    start = line if not text[line:start].strip() else start
    end = _end_of_lines(text, node)
    if text.startswith("\r", end):
        end += 1
    return text[:start] + text[end + 1 :]


def _without_flow(text: str, node: Node, *, in_list: bool) -> str:
    start, end = node.start, node.end
    if in_list:
        if comma := _COMMA.match(text, end):
            end = comma.end()
        elif comma := _LAST_COMMA.search(text[:start]):
            start = comma.start()
    return text[:start] + text[end:]


def _end_of_lines(text: str, node: Node) -> int:
    """The end of a block's last line, before its line break."""
    last = node.start + len(text[node.start : node.end].rstrip())
    end = text.find("\n", last)
    if end < 0:
        return len(text)
    return end - 1 if text.startswith("\r", end - 1) else end


def _check(result: bytes, wanted: Mapping[Identity, Object], source: Source, kinds: Kinds) -> None:
    """Decode the result: only this object may differ."""
    refusal = StoreUnavailable(
        "the object cannot be changed in this file", where=str(source), hint="move it to a file of its own"
    )
    try:
        manifest = decode_manifest(result, source.file, kinds=kinds)
    except BadManifest as error:
        raise refusal from error
    if {_identity(each): each.object for each in manifest.entries} != wanted:
        raise refusal


def _identity(each: ManifestEntry) -> Identity:
    return type(each.object), each.object.key
