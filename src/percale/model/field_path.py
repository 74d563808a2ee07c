"""The path of a field within an object, as the API server writes it in errors: `spec.ports[0].port`."""

from __future__ import annotations

import re
from typing import TypeAlias

FieldPath: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the object down: `("spec", "ports", 0)`."""

_is_plain = re.compile(r"[\w-]+").fullmatch


def format_field_path(path: FieldPath) -> str:
    """`spec.ports[0].port`; a key with dots in quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _is_plain(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text
