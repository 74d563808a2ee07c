"""Results as JSON, for people too: the one form of every `-o json`."""

from __future__ import annotations

from typing import Any

import msgspec

from percale.errors import PercaleError


def format_json(value: Any, *, indent: int = 2) -> str:
    """Structs are objects; `indent` 0 is one line."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()


def format_errors(error: PercaleError) -> str:
    """What stdout has instead of an answer, in one line."""
    return format_json({"errors": [each.plain for each in error.parts]}, indent=0)
