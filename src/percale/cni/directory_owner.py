"""Whether a directory is safe to keep state and sockets in. Called by the agent's state and by `serving`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from percale.errors import StateError


def require_ours(directory: Path, setting: str) -> None:
    """Nobody but root and this user may put files in there: what is in it is believed. Raises StateError, OSError."""
    found = directory.stat()
    others = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or others:
        raise StateError(
            "somebody else may write there",
            where=str(directory),
            hint=f"chown and chmod it, or choose another with {setting}",
        )
