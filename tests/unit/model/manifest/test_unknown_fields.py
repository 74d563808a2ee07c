"""Unknown fields are found in two ways, field by field and by msgspec: both find the same, at every place of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from percale.model.kinds import KINDS
from percale.model.manifest.fields_not_read import FIELDS_NOT_READ
from percale.model.manifest.unknown_fields import closed_type, unknown_fields
from percale.model.meta import Object


def places(expected: inspect.Type, value: Any) -> Iterator[tuple[inspect.StructType, dict[str, Any]]]:
    """Each struct with its own part of a value that leads to it, which `value` is filled with as long as it is looked at."""
    match expected:
        case inspect.UnionType():
            for each in expected.types:
                yield from places(each, value)
        case inspect.StructType():
            part: dict[str, Any] = {}
            value.append(part)
            yield expected, part
            for field in expected.fields:
                for struct, inner in places(field.type, found := list[Any]()):
                    part[field.encode_name] = found[0]
                    yield struct, inner
                part.pop(field.encode_name, None)
            value.pop()
        case inspect.VarTupleType() | inspect.ListType():
            for struct, inner in places(expected.item_type, found := list[Any]()):
                value[:] = [found]
                yield struct, inner
            value.clear()


def is_refused(kind: type[Object], value: Any) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=closed_type(kind))
    except msgspec.ValidationError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_both_ways_find_the_same(kind: type[Object]) -> None:
    seen = set()
    for struct, part in places(inspect.type_info(kind), root := list[Any]()):
        for field in ("nosuch", *(each.encode_name for each in struct.fields), *FIELDS_NOT_READ.get(struct.cls, ())):
            before = dict(part)
            part.setdefault(field, None)
            refused = is_refused(kind, root[0])
            assert refused == any(True for _ in unknown_fields(kind, root[0])), (struct.cls, field)
            assert refused == (field == "nosuch" and struct.cls in FIELDS_NOT_READ), (struct.cls, field)
            part.clear()
            part.update(before)
        seen.add(struct.cls)
    assert kind in seen
