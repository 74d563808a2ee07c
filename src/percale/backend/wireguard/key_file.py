"""This node's private key: a file that only root reads, in the form of `wg genkey`. Read by the backend at each start."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

from msgspec import Struct

from percale.atomic_file import replace_file
from percale.backend.wireguard.curve25519 import clamp, public_key
from percale.errors import StateError
from percale.model.wireguard_key import KEY_LENGTH, decode_key
from percale.secret import Secret

FILE = "private.key"


class KeyPair(Struct, frozen=True):
    """`public` is base64, as in leases."""

    private: Secret
    public: str


def load_key(directory: Path) -> KeyPair:
    """The key that is kept there, or a new one where none is. Raises StateError."""
    path = directory / FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return create_key(directory)
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        key = decode_key(text.strip())
    except ValueError as error:
        hint = "delete it: the agent then makes a new one"
        raise StateError("not a WireGuard key (base64 of 32 bytes)", where=str(path), hint=hint) from error
    return _pair(key)


def create_key(directory: Path) -> KeyPair:
    """A new key, on disk when this returns. Raises StateError."""
    path, key = directory / FILE, clamp(os.urandom(KEY_LENGTH))
    try:
        replace_file(path, b64encode(key) + b"\n", mode=0o600, durable=True)
    except OSError as error:
        raise StateError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return _pair(key)


def is_kept(directory: Path) -> bool:
    """False: somebody has removed it, to have another one."""
    return (directory / FILE).exists()


def _pair(key: bytes) -> KeyPair:
    return KeyPair(Secret(clamp(key)), b64encode(public_key(key)).decode())
