"""What is wrong with one field, said as the API server says it: `spec.x[0].y: Invalid value: 79: must be …`.

Source: apimachinery's field/errors.go, and the messages of CustomResourceDefinitions' schemas. Without their backticks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

from msgspec import Struct

from percale.model.manifest.syntax_tree import Steps, spelled

Sort: TypeAlias = Literal[
    "Required value", "Invalid value", "Unsupported value", "Duplicate value", "Forbidden", "Too many", "Too long"
]

_WITHOUT_VALUE = frozenset(("Required value", "Forbidden", "Too long"))


class FieldError(Struct, frozen=True):
    """`steps` lead to the field. `below` leads on to the place in the file that is meant, when that is a part of it."""

    steps: Steps
    sort: Sort
    value: Any = None
    detail: str = ""
    below: Steps = ()
    supported: tuple[str, ...] = ()

    def __str__(self) -> str:
        value = "" if self.sort in _WITHOUT_VALUE else json.dumps(self.value, ensure_ascii=False)
        return ": ".join(filter(None, (spelled(self.steps), self.sort, value, self.detail)))


FieldErrors: TypeAlias = Iterator[FieldError]


def required(steps: Steps, detail: str = "") -> FieldError:
    """It is not there, or empty."""
    return FieldError(steps, "Required value", detail=detail)


def invalid(steps: Steps, value: Any, detail: str, below: Steps = ()) -> FieldError:
    """It breaks a rule."""
    return FieldError(steps, "Invalid value", value, detail, below)


def forbidden(steps: Steps, detail: str) -> FieldError:
    """It may not be there."""
    return FieldError(steps, "Forbidden", detail=detail)


def unsupported(steps: Steps, value: Any, words: Collection[str]) -> FieldError:
    """It is none of the words, which are listed by the alphabet."""
    supported = tuple(sorted(words))
    detail = "supported values: " + ", ".join(f'"{word}"' for word in supported)
    return FieldError(steps, "Unsupported value", value, detail, supported=supported)


def too_many(steps: Steps, count: int, most: int) -> FieldError:
    """It has too many items."""
    return FieldError(steps, "Too many", count, f"must have at most {most} items")


def too_few(steps: Steps, count: int, least: int, what: Literal["items", "properties"]) -> FieldError:
    """It has too few items or fields."""
    return invalid(steps, count, f"{spelled(steps)} in body should have at least {least} {what}")


def too_long(steps: Steps, most: int) -> FieldError:
    """Its text is too long."""
    return FieldError(steps, "Too long", detail=f"may not be longer than {most}")


def duplicate(steps: Steps, value: Any) -> FieldError:
    """Another item of a set has the same value."""
    return FieldError(steps, "Duplicate value", value)


# Looking at values of which nobody knows the type yet


def mapping(value: Any) -> Mapping[str, Any]:
    """The value's fields; a value of another type, or null, has none."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value's items; a value of another type, or null, has none."""
    return value if isinstance(value, list) else ()


def word(value: Any) -> str:
    """The value itself; a value of another type, or null, is no text."""
    return value if isinstance(value, str) else ""


def is_number(value: Any) -> TypeGuard[int]:
    """A whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
