"""Replaces a file as a whole: readers see the old content or the new one, and a failed write changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def replace_file(
    path: Path,
    content: bytes | Iterable[bytes],
    *,
    mode: int | None = None,
    draft: Path | None = None,
    durable: bool = False,
) -> None:
    """Write the file atomically, its content at once or in parts. Raises OSError.

    `draft` is the path of the new file until it is complete, in the same directory; the default is unique to this process.
    `durable`: the content is on disk when this returns.
    """
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # left by a process that was killed
        with draft.open("xb") as file:  # not through a link that somebody has put there
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.writelines((content,) if isinstance(content, bytes) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
