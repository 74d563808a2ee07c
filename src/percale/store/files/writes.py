"""Atomic file writes, one writer at a time across all processes. Called by `directory.py`, on the store's thread.

There is no fsync: a rename is atomic for all readers. After a power failure a file is old, new or, on some file systems,
empty; an empty one contains no object, and agents write theirs again when they start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from percale.atomic_file import replace_file
from percale.backoff import Backoff
from percale.errors import StoreUnavailable
from percale.model.meta import Object, ObjectKey

_LOCK = ".lock"
_NEW = ".percale-new"
"""Written under the lock: the next writer overwrites what a killed one left."""
_LOCK_MODE = 0o660
"""Whoever can read a file can lock it, and stop all writers: nobody but those who may write."""
_LOCK_TIMEOUT = 5.0
"""Seconds to wait for the lock; it is held for less than a millisecond at a time."""
_LONGEST_NAME = 240
"""Bytes, of 255, leaving room for the suffix."""
_PLAIN = re.compile(rf"[a-z0-9][a-z0-9.-]{{0,{_LONGEST_NAME - 1}}}")
"""Names that need no quoting, nearly all."""
_HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "make the directory writable",
    errno.EACCES: "make the directory writable",
    errno.EPERM: "make the directory writable",
}


def own_path(kind: type[Object], key: ObjectKey) -> str:
    """The store's own file of an object: `Pod/default/web-0.json`."""
    return f"{kind.KIND}/{_file_name(key.namespace) if key.namespace else '-'}/{_file_name(key.name)}.json"


def _file_name(name: str) -> str:
    """The name, quoted and shortened to a valid file name."""
    if _PLAIN.fullmatch(name):
        return name
    text = quote(name, safe="&:+=@,~ ")
    if text.startswith(".") or text == "-":
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME - 17]}~{sha256(name.encode()).hexdigest()[:16]}"
    return text


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the write lock of this directory. Raises StoreUnavailable."""
    path = root / _LOCK
    deadline = time.monotonic() + _LOCK_TIMEOUT
    backoff = Backoff(0.0005, 0.02)
    while True:
        try:
            descriptor = _open_lock(path)
        except OSError as error:
            raise unwritable(error, path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(path, descriptor):
                break
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"locked by another process for {_LOCK_TIMEOUT:.0f} s", where=str(path), hint=f"see who: fuser {path}"
            )
        time.sleep(backoff.next())
    try:
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _LOCK_MODE)
    with suppress(PermissionError):  # another's
        os.fchmod(descriptor, os.fstat(descriptor).st_mode & _LOCK_MODE)
    return descriptor


def _is_current(path: Path, descriptor: int) -> bool:
    """Whether the lock file still exists: a removed one would let another process lock a new one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def make_directory(path: Path) -> None:
    """Create it with its parents, if missing. Raises StoreUnavailable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error, path) from error


def write_file(path: Path, data: bytes) -> None:
    """Replace a user's file (or the target of a link) atomically. Raises StoreUnavailable; then nothing has changed."""
    try:
        path = path.resolve()
        replace_file(path, data, mode=_mode(path), draft=path.with_name(_NEW))
    except OSError as error:
        raise unwritable(error, path) from error


def write_own_file(root: Path, own: str, data: bytes | None) -> None:
    """Replace, make or remove (None) an own file. Raises StoreUnavailable; then nothing has changed.

    Never through a link: who may write to one directory of a store would have the agent write anywhere. Missing parents are
    made, but not the root: a store that is being removed stays removed.
    """
    try:
        with _opened_parent(root, own, make=data is not None) as directory:
            path = directory / Path(own).name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                replace_file(path, data, mode=_mode(path), draft=path.with_name(_NEW))
    except OSError as error:
        raise unwritable(error, root / own) from error


@contextmanager
def _opened_parent(root: Path, own: str, *, make: bool) -> Iterator[Path]:
    """The directory of an own file by way of its descriptor, which nobody can exchange meanwhile. Raises OSError."""
    directory = os.open(root, os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
    try:
        for part in Path(own).parts[:-1]:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=directory)
            below = os.open(part, os.O_DIRECTORY | os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
        yield Path(f"/proc/self/fd/{directory}")
    finally:
        os.close(directory)


def _mode(path: Path) -> int | None:
    """The permissions of a file that exists, which the new one gets."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None


def remove_file(path: Path) -> None:
    """Raises StoreUnavailable."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(error, path) from error


def unwritable(error: OSError, path: Path) -> StoreUnavailable:
    """The store's error for a failed write."""
    return StoreUnavailable(f"cannot be written: {error.strerror}", where=str(path), hint=_HINTS.get(error.errno or 0))
