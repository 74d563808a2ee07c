"""Fields that Kubernetes does not have. Called by `decode.py`; the API server's client refuses them (`--validate=strict`).

Objects here have the fields that a network needs, `fields_not_read.py` has Kubernetes' others; any further one is a mistake:
`podselector` for `podSelector` would select every pod of the namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

from msgspec import Raw, defstruct, inspect

from percale.errors import BadManifest
from percale.model.field_path import FieldPath, format_field_path
from percale.model.manifest.diagnostics import SourceText
from percale.model.manifest.fields_not_read import FIELDS_NOT_READ
from percale.model.manifest.syntax_tree import Node, descend
from percale.model.meta import Object
from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.suggestion import did_you_mean, suggest

_MOST_LISTED = 12
"""Known fields up to which a hint lists them all."""
_SERVERS = ("selfLink", "deletionGracePeriodSeconds", "managedFields", "clusterName")
"""In metadata."""


def unknown_fields(kind: type[Object], value: Any) -> Iterator[tuple[FieldPath, tuple[str, ...]]]:
    """Each with the known ones there."""
    yield from _unknown(_described(kind), value, ())


def unknown_field_errors(kind: type[Object], value: Any, source: SourceText) -> Iterator[BadManifest]:
    """The same as errors, with line and the nearest field that is known."""
    for path, known in unknown_fields(kind, value):
        node, line = descend(source.node, path)
        hint = _label_hint(path, known, node) or _hint(str(path[-1]), known)
        yield BadManifest(f"{format_field_path(path)}: unknown field", where=f"{source.file}:{line}", hint=hint)


def unread_fields(kind: type[Object], value: Any) -> Iterator[FieldPath]:
    """Fields with a value that decoding leaves out, without those that a server sets itself."""
    for path in _unread(_described(kind), value, ()):
        if path[0] not in ("apiVersion", "kind", "status") and (path[0] != "metadata" or path[1] not in _SERVERS):
            yield path


def _unread(expected: inspect.Type, value: Any, path: FieldPath) -> Iterator[FieldPath]:
    for each in expected.types if isinstance(expected, inspect.UnionType) else (expected,):
        if isinstance(each, inspect.StructType) and isinstance(value, dict):
            fields = {field.encode_name: field.type for field in each.fields}
            for key, item in value.items():
                if key in fields:
                    yield from _unread(fields[key], item, (*path, key))
                elif item not in (None, {}, []):
                    yield (*path, key)
        elif isinstance(each, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _unread(each.item_type, item, (*path, index))


def _label_hint(path: FieldPath, known: Sequence[str], node: Node) -> str | None:
    """For a label that stands directly in a selector."""
    field = str(path[-1])
    if tuple(known) != LabelSelector.__struct_encode_fields__ or node.shape != "scalar" or did_you_mean(field, known):
        return None
    label = NAME_LABEL if path[-2:] == ("namespaceSelector", "name") else field
    return f"write matchLabels: {{{label}: {node.text}}}"


def _hint(field: str, known: Sequence[str]) -> str | None:
    return suggest(field, known) if len(known) <= _MOST_LISTED else did_you_mean(field, known)


@cache
def closed_type(kind: type[Object]) -> Any:
    """What msgspec decodes to it has no unknown field; of all else in a value it says nothing.

    For JSON, where nearly all files are right: a hundred times faster than to look at each field.
    """
    return _closed(_described(kind))


def _closed(expected: inspect.Type) -> Any:
    """`Raw`: there are no fields to look at."""
    match expected:
        case inspect.UnionType():
            found = [each for each in map(_closed, expected.types) if each is not Raw]
            return found[0] if len(found) == 1 else Raw
        case inspect.VarTupleType() | inspect.ListType():
            item = _closed(expected.item_type)
            return Raw if item is Raw else list[item] | None  # type: ignore[valid-type]
        case inspect.StructType():
            return _closed_struct(expected) | None
    return Raw


def _closed_struct(expected: inspect.StructType) -> Any:
    closed = FIELDS_NOT_READ.get(expected.cls)
    types = {field.encode_name: _closed(field.type) for field in expected.fields} | dict.fromkeys(closed or (), Raw)
    names = {f"field{index}": name for index, name in enumerate(types)}  # `from` is no name in Python
    fields = [(field, types[name], None) for field, name in names.items()]
    return defstruct(expected.cls.__name__, fields, rename=names, forbid_unknown_fields=closed is not None)


@lru_cache
def _described(kind: type[Object]) -> inspect.Type:
    return inspect.type_info(kind)


def _unknown(expected: inspect.Type, value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, tuple[str, ...]]]:
    if not isinstance(value, dict | list):
        return
    for each in expected.types if isinstance(expected, inspect.UnionType) else (expected,):
        if isinstance(each, inspect.StructType) and isinstance(value, dict):
            fields = {field.encode_name: field.type for field in each.fields}
            closed = FIELDS_NOT_READ.get(each.cls)
            for key, item in value.items():
                if key in fields:
                    yield from _unknown(fields[key], item, (*path, key))
                elif closed is not None and key not in closed:
                    yield (*path, key), (*fields, *closed)
        elif isinstance(each, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _unknown(each.item_type, item, (*path, index))
