"""Checks that a directory is safe for state and sockets. Called by the agent's state and by `server.py`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from percale.errors import StateError


def require_ours(directory: Path, setting: str) -> None:
    """Only root and this user may create files there, for its content is trusted. Raises StateError, OSError."""
    found = directory.stat()
    others = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or others:
        raise StateError(
            "others may write there",
            where=str(directory),
            hint=f"chown and chmod it, or choose another with {setting}",
        )
