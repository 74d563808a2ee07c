"""Files that take long to read, on a thread of their own: the others do not wait for them. Used by `directory.py`.

    put(name) ─▶ queues, one for each directory below the root ─ in turns ─▶ read ─▶ results ─ readable ─▶ take()

A file that is put again while it is read is read once more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

R = TypeVar("R")


class LaterReads(Generic[R]):
    """All methods but `close` may be called on any thread; the thread starts with the first file."""

    def __init__(self, read: Callable[[str], R], group: Callable[[str], str]) -> None:
        """`read` is called on the thread, and raises nothing; files of one `group` wait for each other."""
        self._read = read
        self._group = group
        self._queues: dict[str, dict[str, None]] = {}
        self._current: str | None = None
        """What is read now; None also where its result has been discarded meanwhile."""
        self._results: dict[str, R] = {}
        self._changed = threading.Condition()
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._closed = False

    def fileno(self) -> int:
        """Readable while there are results."""
        return self._ready

    def put(self, name: str) -> None:
        """Read this file when it is its turn."""
        with self._changed:
            self._queues.setdefault(self._group(name), {})[name] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="large files", daemon=True)
                self._thread.start()
            self._changed.notify()

    def discard(self, name: str) -> None:
        """It is read elsewhere: whatever is known of it here is outdated."""
        with self._changed:
            queue = self._queues.get(self._group(name), {})
            queue.pop(name, None)
            self._results.pop(name, None)
            if self._current == name:
                self._current = None

    def __contains__(self, name: str) -> bool:
        """Whether it is still to be read, or to be taken."""
        with self._changed:
            waits = name in self._queues.get(self._group(name), ())
            return waits or name == self._current or name in self._results

    def take(self) -> dict[str, R]:
        """The results since the last call."""
        with self._changed:
            results, self._results = self._results, {}
            if results:
                os.eventfd_read(self._ready)
            return results

    def close(self) -> None:
        """Do not wait for what is being read: a daemon thread ends with its process."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            os.close(self._ready)

    def _run(self) -> None:
        while (name := self._next()) is not None:
            result = self._read(name)
            with self._changed:
                if self._current == name and not self._closed:
                    self._results[name] = result
                    os.eventfd_write(self._ready, 1)
                self._current = None

    def _next(self) -> str | None:
        """The first file of the directory whose turn it is; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
            if self._closed:
                return None
            group = next(each for each, queue in self._queues.items() if queue)
            queue = self._queues.pop(group)
            self._current = name = next(iter(queue))
            del queue[name]
            if queue:
                self._queues[group] = queue  # behind the others
            return name
