"""Unix stream sockets: listens at a path that an earlier process may have left, and asks who connects."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LONGEST_PATH = 107
"""Bytes of `sun_path` without its end."""
_CREDENTIALS = struct.Struct("=iII")


class PeerCredentials(NamedTuple):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


def listen_at(path: Path, *, backlog: int, mode: int | None = None) -> socket.socket:
    """A listening socket that atomically replaces whatever is at the path; `mode` are its permissions. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(draft)) > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {_LONGEST_PATH} bytes, {draft} has more")
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(draft))
        if mode is not None:
            draft.chmod(mode)
        listener.listen(backlog)
        draft.rename(path)
    except OSError:
        listener.close()
        with suppress(OSError):
            draft.unlink()
        raise
    return listener


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Who connected."""
    return PeerCredentials(
        *_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )
