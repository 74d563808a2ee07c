"""`percale-cni` as a file in the runtime's plugin directory. The agent calls at its start, before its conflist.

The file is the static binary that hatch_build.py compiled, with the agent's socket written into it: so the plugin needs no file
beside it, and agents of one machine may have a socket each.
"""

from __future__ import annotations

import os
from pathlib import Path

from percale.atomic_file import replace_file
from percale.errors import StateError

NAME = "percale-cni"
BINARY = Path(__file__).with_name(NAME)
_MARK = b"percale-cni agent socket\0"
_FIELD = 108
"""Bytes behind the mark, as in percale-cni.c; the last one is zero."""


def install_plugin(directory: Path, socket: str) -> Path:
    """Write it, unless it is up to date. Raises StateError."""
    path = directory / NAME
    try:
        content = _with_socket(BINARY.read_bytes(), socket)
    except FileNotFoundError as error:
        raise StateError(
            "this Percale was installed without its CNI plugin",
            where=str(BINARY),
            hint="install a C compiler (apt-get install gcc libc6-dev) and then Percale again",
        ) from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == content and os.access(path, os.X_OK):
            return path
        replace_file(path, content, mode=0o755)
    except OSError as error:
        raise StateError(f"the CNI plugin cannot be installed: {error.strerror}", where=str(path)) from error
    return path


def _with_socket(binary: bytes, socket: str) -> bytes:
    path = os.fsencode(socket)
    if len(path) >= _FIELD:
        raise StateError(f"a socket's path has at most {_FIELD - 1} bytes", where=f"cni.socket {socket}")
    before, _, after = binary.partition(_MARK)
    return before + _MARK + path.ljust(_FIELD, b"\0") + after[_FIELD:]
