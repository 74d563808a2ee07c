"""msgspec's decoders of kinds, on any thread. Called by `decode.py` and by the stores that decode themselves.

msgspec describes a struct when a decoder first needs it, and other threads see the description before it is whole: two that
decode a kind for the first time crash the process, without an exception. So descriptions are made under a lock.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any, TypeVar

import msgspec

from percale.model.manifest.schema import from_text

T = TypeVar("T")

_DESCRIBING = Lock()


@cache
def decoder_of(kind: Any) -> msgspec.json.Decoder[Any]:
    """Addresses and networks are texts."""
    with _DESCRIBING:
        return msgspec.json.Decoder(kind, dec_hook=from_text)


def converted(value: Any, kind: type[T]) -> T:
    """A plain value as this kind. Raises msgspec.ValidationError."""
    decoder_of(kind)  # type: ignore[arg-type]  # describes it, for which a type is hashable
    return msgspec.convert(value, kind, dec_hook=from_text)
