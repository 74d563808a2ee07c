"""Reads a file of a store, whatever somebody put in its place. Used by `directory.py`.

A device or a FIFO is not opened: one never ends, another blocks whoever opens it, and a watchdog restarts the machine. So the
kind is looked up at a descriptor that only names the file (O_PATH), which is then opened by way of that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from percale.errors import StoreUnavailable

MAX_SIZE = 128 << 20
"""Bytes: 200,000 pods in one file."""


def read_regular_file(name: str) -> bytes:
    """The content. Raises FileNotFoundError, and StoreUnavailable for what cannot be read, is too large or no regular file."""
    try:
        found = os.open(name, os.O_PATH | os.O_CLOEXEC)
        try:
            return _content(found, name)
        finally:
            os.close(found)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and not _is_listed(name):
            raise FileNotFoundError(*error.args) from error
        raise StoreUnavailable(f"cannot be read: {error.strerror}", where=name) from error


def _is_listed(name: str) -> bool:
    """Whether there is something whose path is too long to ask for."""
    try:
        return Path(name) in Path(name).parent.iterdir()
    except OSError:
        return False


def _content(found: int, name: str) -> bytes:
    status = os.fstat(found)
    if stat.S_ISDIR(status.st_mode) and not Path(name).is_symlink():
        os.close(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC))
        raise FileNotFoundError(errno.ENOENT, "a directory that can be read has files, and no content", name)
    if not stat.S_ISREG(status.st_mode):
        raise StoreUnavailable("is not a regular file", where=name, hint="remove it from the store")
    if status.st_size > MAX_SIZE:
        much = f"has {status.st_size >> 20} MiB; {MAX_SIZE >> 20} are read at most"
        raise StoreUnavailable(much, where=name, hint="split it")
    file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read(file, status.st_size)
    finally:
        os.close(file)


def _read(file: int, size: int) -> bytes:
    """Up to so many bytes: a file that grows meanwhile is read again, for its writer is heard of."""
    data = os.read(file, size)
    while len(data) < size and (more := os.read(file, size - len(data))):
        data += more
    return data
