"""Reads a file of a store, whatever somebody put in its place. Used by `directory.py`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from percale.bounded_file import read_regular_file
from percale.errors import StoreUnavailable

_HINTS = {errno.EINVAL: "remove it from the store", errno.EFBIG: "split it"}


def read_store_file(name: str) -> bytes:
    """The content. Raises FileNotFoundError, and StoreUnavailable for what cannot be read, is too large or no regular file."""
    try:
        try:
            return read_regular_file(name)
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
        raise StoreUnavailable(what, where=name, hint=_HINTS.get(error.errno or 0)) from error


def _is_listed(name: str) -> bool:
    """Whether there is something whose path is too long to ask for."""
    try:
        return Path(name) in Path(name).parent.iterdir()
    except OSError:
        return False
