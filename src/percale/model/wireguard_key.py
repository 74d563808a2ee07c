"""WireGuard's keys as text, in leases, files and net-conf.json: base64 of 32 bytes."""

from __future__ import annotations

from base64 import b64decode, b64encode

KEY_LENGTH = 32


def decode_key(text: str | bytes) -> bytes:
    """Raises ValueError, which does not have the text."""
    given = text.encode() if isinstance(text, str) else text
    try:
        key = b64decode(given, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_LENGTH or b64encode(key) != given:
        raise ValueError("expected base64 of 32 bytes, as `wg genkey` and `wg genpsk` print it")
    return key
