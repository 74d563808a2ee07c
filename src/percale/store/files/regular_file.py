"""Reads a file of a store, whatever somebody put in its place. Used by `directory.py`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from percale.bounded_file import MAX_SIZE, read_regular_file
from percale.errors import StoreUnavailable

_HINTS = {errno.EINVAL: "remove it from the store", errno.EFBIG: "split it"}


class TooLarge(StoreUnavailable):
    """More than may be read."""


def read_store_file(name: str, most: int = MAX_SIZE) -> bytes:
    """The content. Raises FileNotFoundError, TooLarge, and StoreUnavailable for what cannot be read or is no regular file."""
    try:
        try:
            return read_regular_file(name, most)
        except IsADirectoryError as error:
            if Path(name).is_symlink():
                raise OSError(errno.EINVAL, "not a regular file", name) from error
            os.close(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            raise FileNotFoundError(
                errno.ENOENT, "a directory that can be read has files, and no content", name
            ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and not _is_listed(name):
            raise FileNotFoundError(*error.args) from error
        what = f"cannot be read: {error.strerror}"
        kind = TooLarge if error.errno == errno.EFBIG else StoreUnavailable
        raise kind(what, where=name, hint=_HINTS.get(error.errno or 0)) from error


def _is_listed(name: str) -> bool:
    """Whether there is something whose path is too long to ask for."""
    try:
        return Path(name) in Path(name).parent.iterdir()
    except OSError:
        return False
