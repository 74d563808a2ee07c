"""Field errors in the API server's words: `spec.x[0].y: Invalid value: 79: must be …`.

Source: apimachinery's field/errors.go, and the messages of CustomResourceDefinition schemas, without their backticks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

from msgspec import Struct

from percale.model.field_path import FieldPath, format_field_path

ErrorType: TypeAlias = Literal[
    "Required value", "Invalid value", "Unsupported value", "Duplicate value", "Forbidden", "Too many", "Too long"
]

_WITHOUT_VALUE = frozenset(("Required value", "Forbidden", "Too long"))


class FieldError(Struct, frozen=True):
    """`subpath` leads from the field to the wrong part of it, for the line number."""

    path: FieldPath
    type: ErrorType
    value: Any = None
    detail: str = ""
    subpath: FieldPath = ()
    supported: tuple[str, ...] = ()

    def __str__(self) -> str:
        value = "" if self.type in _WITHOUT_VALUE else json.dumps(self.value, ensure_ascii=False)
        return ": ".join(filter(None, (format_field_path(self.path), self.type, value, self.detail)))


FieldErrors: TypeAlias = Iterator[FieldError]


def required(path: FieldPath, detail: str = "") -> FieldError:
    """Absent or empty."""
    return FieldError(path, "Required value", detail=detail)


def invalid(path: FieldPath, value: Any, detail: str, subpath: FieldPath = ()) -> FieldError:
    """Present, but breaks a rule."""
    return FieldError(path, "Invalid value", value, detail, subpath)


def forbidden(path: FieldPath, detail: str) -> FieldError:
    """Present, but not allowed."""
    return FieldError(path, "Forbidden", detail=detail)


def unsupported(path: FieldPath, value: Any, words: Collection[str]) -> FieldError:
    """Not one of the words, which the error lists alphabetically."""
    supported = tuple(sorted(words))
    detail = "supported values: " + ", ".join(f'"{word}"' for word in supported)
    return FieldError(path, "Unsupported value", value, detail, supported=supported)


def too_many(path: FieldPath, count: int, most: int) -> FieldError:
    return FieldError(path, "Too many", count, f"must have at most {most} items")


def too_few(path: FieldPath, count: int, least: int, what: Literal["items", "properties"]) -> FieldError:
    """Too few items or fields."""
    return invalid(path, count, f"{format_field_path(path)} in body should have at least {least} {what}")


def too_long(path: FieldPath, most: int) -> FieldError:
    return FieldError(path, "Too long", detail=f"may not be longer than {most}")


def duplicate(path: FieldPath, value: Any) -> FieldError:
    """Equal to another item of a set."""
    return FieldError(path, "Duplicate value", value)


# Access to values of unchecked type


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, if it is a mapping; otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value, if it is a list; otherwise an empty one."""
    return value if isinstance(value, list) else ()


def word(value: Any) -> str:
    """The value, if it is a text; otherwise an empty one."""
    return value if isinstance(value, str) else ""


def is_number(value: Any) -> TypeGuard[int]:
    """Whether the value is an integer (and no bool)."""
    return isinstance(value, int) and not isinstance(value, bool)
