"""Results as JSON, for people too: the one form of every `-o json`."""

from __future__ import annotations

from typing import Any

import msgspec


def format_json(value: Any, *, indent: int = 2) -> str:
    """Structs are objects; `indent` 0 is one line."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()
