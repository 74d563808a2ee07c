"""Takes secrets out of texts that leave the node. Pure; used by `support_bundle.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "REDACTED"
_SHORTEST = 6
"""Bytes: what is shorter would take too much else with it."""

_WORDS = (
    *("passw(?:or)?d", "passphrase", "token", "secret", "credential", "psk", "api-?key"),
    *("private-?key", "pre-?shared-?key", "client-key-data"),
)
_NAME = rf"(?<![\w.-])(?=[\w.-]*?(?:{'|'.join(_WORDS)}))[\w.-]++"
"""Of a value that nobody else may know."""
_PATTERNS = (
    # -----BEGIN … PRIVATE KEY----- to its end, or to that of the text
    (re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL), REDACTED),
    # scheme://user:password@host
    (re.compile(r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # Authorization: Bearer …, Basic …
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # JSON Web Tokens, as of service accounts
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"), REDACTED),
    # "name": "value", name: value, NAME=value, --name value
    (
        re.compile(rf"(\"?{_NAME}\"?\s*[:=]\s*)(?:(\")(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,&}}\]]+)", re.IGNORECASE),
        rf"\1\2{REDACTED}\2",
    ),
    (
        re.compile(r"((?<![\w.-])--(?=[\w-]*?(?:password|token|secret|key))[\w-]++\s+)(?!-)\S+", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
)


def redacted(text: str, known: Iterable[bytes] = ()) -> str:
    """Without what looks like a secret, and without the known ones, wherever they are."""
    for secret in sorted((each.strip() for each in known), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret.decode(errors="replace"), REDACTED)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
