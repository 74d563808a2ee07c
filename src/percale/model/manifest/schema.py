"""Schema queries on msgspec's description of the structs. Called by `decode.py` and the linter.

msgspec checks the values and stops at the first wrong one; this finds them all, and adds Kubernetes' handling of null, and
the allowed words for hints.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import msgspec.structs
from msgspec import inspect

from percale.model.addresses import parsed
from percale.model.field_path import FieldPath


@lru_cache
def _described(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def without_nulls(kind: Any, value: Any) -> Any:
    """The value as Kubernetes reads it: a null field is absent, a null text in a map (`label:`) is empty."""
    return _without_nulls(_described(kind), value)


def _without_nulls(expected: inspect.Type, value: Any) -> Any:
    if isinstance(value, dict):
        for each in _alternatives(expected):
            if isinstance(each, inspect.StructType):
                fields = {field.encode_name: field.type for field in each.fields}
                return {
                    key: _without_nulls(fields[key], item)
                    for key, item in value.items()
                    if key in fields and item is not None
                }
            if isinstance(each, inspect.DictType) and isinstance(each.value_type, inspect.StrType):
                return {key: "" if item is None else item for key, item in value.items()}
    elif isinstance(value, list):
        for each in _alternatives(expected):
            if isinstance(each, inspect.VarTupleType | inspect.ListType):
                return [_without_nulls(each.item_type, item) for item in value]
    return value


def type_errors(kind: Any, value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """All values of a wrong type, and all missing ones, each with its field path and msgspec's words."""
    try:
        msgspec.convert(value, kind, dec_hook=from_text)
    except msgspec.ValidationError as error:
        said = str(error)
    else:
        return
    found = False
    for step, inner, part in _parts(kind, value):
        for each in (((*path, step), MISSING),) if part is msgspec.UNSET else type_errors(inner, part, (*path, step)):
            found = True
            yield each
    if not found:
        yield path, said


MISSING = "missing"


def _parts(kind: Any, value: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """The key or index, the type and the value of each part; UNSET if it is missing. A text has none."""
    for each in _union(kind):
        if isinstance(value, list) and get_origin(each) in (tuple, list):
            yield from ((index, get_args(each)[0], part) for index, part in enumerate(value))
        elif isinstance(value, dict) and get_origin(each) is dict:
            yield from ((key, get_args(each)[1], part) for key, part in value.items())
        elif isinstance(value, dict) and isinstance(each, type) and issubclass(each, msgspec.Struct):
            for field in msgspec.structs.fields(each):
                if field.encode_name in value or field.required:
                    yield field.encode_name, field.type, value.get(field.encode_name, msgspec.UNSET)


def _union(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)


def allowed_words(kind: Any, path: FieldPath) -> tuple[str, ...]:
    """The enum values of the field; empty if it has none."""
    return tuple(str(word) for each in _at(kind, path) if isinstance(each, inspect.LiteralType) for word in each.values)


def _at(kind: Any, path: FieldPath) -> list[inspect.Type]:
    """The types of the field."""
    here = [_described(kind)]
    for step in path:
        here = [inner for each in here for inner in _inside(each, step)]
    return here


def _inside(expected: inspect.Type, step: str | int) -> Iterator[inspect.Type]:
    """The types one step down."""
    if isinstance(expected, inspect.StructType):
        yield from (
            part for field in expected.fields if field.encode_name == step for part in _alternatives(field.type)
        )
    elif isinstance(expected, inspect.VarTupleType | inspect.ListType):
        yield from _alternatives(expected.item_type)
    elif isinstance(expected, inspect.DictType):
        yield from _alternatives(expected.value_type)


def _alternatives(expected: inspect.Type) -> tuple[inspect.Type, ...]:
    return expected.types if isinstance(expected, inspect.UnionType) else (expected,)


def from_text(kind: Any, value: Any) -> Any:
    """msgspec's dec_hook: addresses and networks are texts."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {msgspec.json.encode(value).decode()}")
    return parsed(kind, value)
