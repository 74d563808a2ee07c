"""What inotify tells of a directory tree, as paths to read again. Owned by `files`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from inotify_simple import INotify, flags

from percale.errors import StoreUnavailable

_INTERESTING = flags.CREATE | flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.ONLYDIR


class Noticed(Protocol):
    """Told on the event loop; `overflow` when more may have changed."""

    def __call__(self, paths: set[Path], *, overflow: bool) -> None: ...


class Notices:
    """Watches every directory below the root; `add_tree` may be called from a worker thread."""

    def __init__(self, root: Path, noticed: Noticed) -> None:
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            hint = "raise sysctl fs.inotify.max_user_instances"
            raise StoreUnavailable(f"cannot watch: {error.strerror}", where=str(root), hint=hint) from error
        self._directories: dict[int, Path] = {}
        self._noticed = noticed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fileno(), self._read)

    def add_tree(self, directory: Path) -> list[Path]:
        """Watch a directory and all below; the files that are there now. Raises StoreUnavailable."""
        return list(self._walk(directory))

    def _walk(self, directory: Path) -> Iterator[Path]:
        try:
            self._directories[self._inotify.add_watch(directory, _INTERESTING)] = directory
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except FileNotFoundError:  # gone again
            return
        except OSError as error:
            hint = "raise sysctl fs.inotify.max_user_watches" if error.errno == 28 else None
            raise StoreUnavailable(f"cannot watch: {error.strerror}", where=str(directory), hint=hint) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            else:
                yield Path(entry.path)

    def _read(self) -> None:
        paths: set[Path] = set()
        overflow = False
        for event in self._inotify.read(timeout=0):
            overflow |= bool(event.mask & flags.Q_OVERFLOW)
            directory = self._directories.get(event.wd)
            if event.mask & flags.IGNORED:
                self._directories.pop(event.wd, None)
            elif directory is not None and event.name and not event.name.startswith("."):
                path = directory / event.name
                # A file that was just created is read when it is closed; a link or a directory is complete at once.
                if not event.mask & flags.CREATE or event.mask & flags.ISDIR or path.is_symlink():
                    paths.add(path)
        if paths or overflow:
            self._noticed(paths, overflow=overflow)

    def close(self) -> None:
        """No more notices."""
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
