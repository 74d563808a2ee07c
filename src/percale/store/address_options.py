"""The options in a store's address, `?NAME=VALUE&…`. Read by the stores that have some."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from percale.errors import BadConfig
from percale.suggestion import suggest


def address_options(query: str, known: Sequence[str], form: str) -> dict[str, str]:
    """Each with its value; `form` is how the whole address is written. Raises BadConfig."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in known:
            raise BadConfig(f'unknown option "{name}"', where="store", hint=suggest(name, known, cutoff=0.6))
        if not value:
            raise BadConfig(f"{name} is empty", where="store", hint=f"write {form}")
    return options
