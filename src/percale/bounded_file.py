"""Reads a file that somebody else may have put there: it ends, and whoever opens it does not wait.

A device never ends, and a FIFO blocks whoever opens it. So the kind is looked up at a descriptor that only names the file
(O_PATH), which is then opened by way of that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_SIZE = 128 << 20
"""Bytes: 200,000 pods in one file."""


def read_regular_file(path: Path | str, most: int = MAX_SIZE) -> bytes:
    """The content. Raises OSError: IsADirectoryError, EINVAL for another kind of file, EFBIG for more than `most` bytes."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > most:
            raise _too_large(f"{status.st_size >> 20} MiB", str(path))
        file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read(file, status.st_size)
        finally:
            os.close(file)
    finally:
        os.close(found)


def read_file(path: Path | str) -> bytes:
    """The content of a file that the user names, which may be a pipe of the shell's. Raises OSError, as above for too much."""
    with Path(path).open("rb") as file:
        return read_stream(file, str(path))


def read_stream(stream: BinaryIO, name: str) -> bytes:
    """All of it. Raises OSError: EFBIG for more than MAX_SIZE."""
    data = stream.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise _too_large("more", name)
    return data


def _too_large(much: str, name: str) -> OSError:
    return OSError(errno.EFBIG, f"it has {much}; {MAX_SIZE >> 20} MiB are read at most", name)


def _read(file: int, size: int) -> bytes:
    """Up to so many bytes: a file that grows meanwhile is read again, for its writer is heard of."""
    data = os.read(file, size)
    while len(data) < size and (more := os.read(file, size - len(data))):
        data += more
    return data
