"""Names as Kubernetes makes them: `web-7c5ddbdf54-2xkqn`, from hashes only, so that a lab gives the same names each time.

Called by `workloads`. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from hashlib import sha256
from itertools import count

import msgspec

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own: no vowels, nothing that looks like something else."""
_LONGEST = 63


def template_hash(template: msgspec.Struct) -> str:
    """Ten characters for the content of a pod template."""
    return _letters(msgspec.json.encode(template, order="deterministic"), 10)


def fresh_names(owner: str, taken: Collection[str]) -> Iterator[str]:
    """`OWNER-xxxxx`, one after the other, leaving out those that are or were in use."""
    prefix = owner[: _LONGEST - 6]
    for number in count():
        name = f"{prefix}-{_letters(f'{owner}#{number}'.encode(), 5)}"
        if name not in taken:
            yield name


def _letters(content: bytes, length: int) -> str:
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in sha256(content).digest()[:length])
