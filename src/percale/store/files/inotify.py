"""Watches a directory tree for changed manifests with inotify. Called by `directory.py`, on the store's thread.

A file is reported once it is complete: closed after writing, or renamed into place, as editors and this store do. A new
subdirectory is watched first and scanned then, so that no file created in between is missed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import INotify, flags

from percale.errors import StoreUnavailable

SUFFIXES = (".yaml", ".yml", ".json")

_MASK = (
    flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.EXCL_UNLINK
)

_LIMITS = (errno.EMFILE, errno.ENOSPC)
"""Of watches and of watchers."""


@dataclass(slots=True)
class FileChanges:
    """What to read again; paths relative to the root."""

    files: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    """Created, deleted or moved: all known files below (one may be deleted before its new directory is watched)."""
    overflow: bool = False
    """The kernel's queue overflowed: read everything."""
    lost: bool = False
    """The root was deleted or moved: a new one in its place is not watched."""


class InotifyWatcher:
    """The watches of one directory tree."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        self._lost = False
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            raise _refused(error, root, "fs.inotify.max_user_instances") from error

    def fileno(self) -> int:
        """Readable when there are events."""
        descriptor: int = self._inotify.fileno()
        return descriptor

    def close(self) -> None:
        """End all watches."""
        self._inotify.close()

    def scan(self, directory: str = "") -> Iterator[str]:
        """Watch a directory tree and yield its manifests; none if it is gone again.

        A directory below that cannot be watched is yielded as a file would be: reading it tells why.
        """
        waiting = [directory]
        while waiting:
            current = waiting.pop()
            try:
                entries = self._watch(current)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not current:
                    raise _refused(error, self._root) from error
                continue
            except OSError as error:
                if not current or error.errno in _LIMITS:
                    raise _refused(error, self._root / current, "fs.inotify.max_user_watches") from error
                yield current
                continue
            for entry in entries:
                path = _join(current, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.name.endswith(SUFFIXES):
                    yield path

    def _watch(self, directory: str) -> list[os.DirEntry[str]]:
        """Its entries, those that were there before it was watched, too. Raises OSError."""
        self._paths[self._inotify.add_watch(self._root / directory, _MASK)] = directory
        return list(os.scandir(self._root / directory))

    def read(self) -> FileChanges:
        """All changes since the last call; does not block."""
        changes = FileChanges()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                changes.overflow = True
                continue
            directory = self._paths.get(event.wd)
            if directory is None:
                continue
            if event.mask & (flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT):
                self._lost |= directory == ""
            elif event.mask & flags.IGNORED:
                del self._paths[event.wd]
            elif event.mask & flags.ISDIR:
                self._directory_changed(_join(directory, event.name), event.mask, changes)
            else:
                self._file_changed(directory, event.name, event.mask, changes)
        changes.lost = self._lost
        return changes

    def _directory_changed(self, path: str, mask: int, changes: FileChanges) -> None:
        if path.rpartition("/")[2].startswith("."):
            return
        changes.directories.add(path)
        if mask & (flags.MOVED_FROM | flags.DELETE):
            self._forget(path)
        elif mask & (flags.MOVED_TO | flags.CREATE):
            changes.files.update(self.scan(path))

    def _file_changed(self, directory: str, name: str, mask: int, changes: FileChanges) -> None:
        path = _join(directory, name)
        if name.startswith("."):
            if mask & flags.MOVED_TO and (self._root / path).is_symlink():
                changes.directories.add(directory)  # a mounted ConfigMap: the files are links through `..data`
        elif name.endswith(SUFFIXES) and (not mask & flags.CREATE or self._is_complete(path)):
            changes.files.add(path)

    def _is_complete(self, path: str) -> bool:
        """A link is complete when created; a regular file is not: its close will be reported."""
        try:
            status = (self._root / path).lstat()
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    def _forget(self, path: str) -> None:
        """Remove the watches of a directory that was moved: it may reappear under another name."""
        below = f"{path}/"
        for descriptor, known in list(self._paths.items()):
            if known == path or known.startswith(below):
                del self._paths[descriptor]
                try:
                    self._inotify.rm_watch(descriptor)
                except OSError as error:
                    if error.errno != errno.EINVAL:  # it was deleted, and its watch with it
                        raise


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _refused(error: OSError, path: Path, limit: str | None = None) -> StoreUnavailable:
    hint = "make it, or correct the address" if error.errno == errno.ENOENT else None
    if limit is not None and error.errno in _LIMITS:
        hint = f"raise the limit: sysctl {limit}"
    return StoreUnavailable(f"cannot be watched: {error.strerror}", where=str(path), hint=hint)
