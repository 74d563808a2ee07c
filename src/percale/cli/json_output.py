"""Results as JSON that people read as well."""

from __future__ import annotations

from typing import Any

import msgspec


def format_json(value: Any) -> str:
    """Indented; structs are objects."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
