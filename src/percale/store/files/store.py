"""The files store: a directory of YAML or JSON manifests, shared by users and several processes. Opened by `registry.py`.

    event loop                      the store's one thread
    list get put delete watch ────▶ Directory (which first catches up with the files)
    inotify readable, lease expires ─▶ ┘ └── events, before the result ──▶ Watches ─▶ every watch

Objects that the store writes first go to `KIND/NAMESPACE/NAME.json`; an object in a user's file stays there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from percale.errors import StoreError, StoreUnavailable
from percale.event_loop import WorkerThread
from percale.model.kinds import KINDS, Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import LazyObjects
from percale.store.files.directory import Directory
from percale.store.files.file_index import FileIndex
from percale.store.files.lease_expiry import BootClock
from percale.store.files.writes import make_directory
from percale.store.protocol import Event, Snapshot
from percale.store.watch_queue import Watch, Watches

T = TypeVar("T", bound=Object)
R = TypeVar("R")

_DEBOUNCE = 0.005
"""Seconds from the first event to reading: one written file causes several events, and files are written in bursts."""
_MAX_TIMER = 60.0
"""Seconds between checks of leases: the event loop's clock stops during suspend."""


class FilesStore:
    """For one event loop. The directory is read at the first operation."""

    def __init__(
        self,
        root: Path,
        kinds: Kinds = KINDS,
        clock: BootClock | None = None,
        *,
        make: bool = True,
        defer: bool = False,
    ) -> None:
        """`make` the directory at the first operation if it is missing; else that is StoreUnavailable.

        `defer` reading what takes long: other files do not wait for it, and a list may lack its objects.
        """
        self._root = root
        self._defer = defer
        self._make = make
        """Only once: a directory that disappears later must not be replaced by an empty cluster."""
        self._clock = clock or BootClock()
        self._worker = WorkerThread(f"store {root.name}")
        # Used by the worker only:
        self._index = FileIndex(kinds, self._clock.now)
        """Outlives a directory that goes away: a file that comes back invalid keeps its objects."""
        self._directory: Directory | None = None
        self._watches = Watches()
        self._descriptor: int | None = None
        """The watcher's, read by the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def hosts(self) -> Sequence[str]:
        """None."""
        return ()

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        return await self._submit(lambda directory: directory.list(kind))

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable."""
        return await self._submit(lambda directory: directory.get(kind, key))

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """What cannot be read, a Snapshot, then every change in order. Raises StoreUnavailable."""
        watch = Watch(kinds)

        def first(directory: Directory) -> Iterable[Event]:
            return [
                *directory.problems,
                Snapshot({kind: LazyObjects(tuple(directory.entries(kind))) for kind in kinds}),
            ]

        try:
            await self._submit(first, then=lambda events: self._watches.add(watch, events))
            async for event in watch.events():
                yield event
        finally:
            self._watches.remove(watch)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict, StoreUnavailable, BadManifest."""
        return await self._submit(lambda directory: directory.put(obj, expect, ttl))

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Delete the object. Raises NotFound, Conflict, StoreUnavailable, BadManifest."""
        await self._submit(lambda directory: directory.delete(kind, key, expect))

    async def close(self) -> None:
        """End all watches."""
        if self._closed:
            return
        self._closed = True
        self._set_reader(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._checks:
            await asyncio.wait(self._checks)
        await self._worker.run(self._close_directory)
        self._worker.close()
        self._watches.end()

    # On the event loop

    async def _submit(self, operation: Callable[[Directory], R], then: Callable[[R], None] | None = None) -> R:
        if self._closed:
            raise StoreUnavailable("the store is closed", where=str(self._root))
        loop = asyncio.get_running_loop()
        return await self._worker.run(partial(self._execute, loop, operation, then))

    def _set_reader(self, descriptor: int | None) -> None:
        """Watch this descriptor on the event loop."""
        loop = asyncio.get_running_loop()
        if self._descriptor is not None:
            loop.remove_reader(self._descriptor)
        self._descriptor = descriptor
        if descriptor is not None:
            loop.add_reader(descriptor, self._on_change)

    def _on_change(self) -> None:
        """The files changed, or a lease may have expired: let the worker check."""
        if self._descriptor is not None and not self._closed:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            check = asyncio.get_running_loop().create_task(self._check_files())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_files(self) -> None:
        await asyncio.sleep(_DEBOUNCE)
        try:
            await self._submit(lambda directory: None)
        except StoreError:
            return  # reported to the watches
        if self._descriptor is not None and not self._closed:
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_change)

    def _publish(self, events: Iterable[Event], descriptor: int, delay: float | None) -> None:
        """Publish the worker's events, in its order."""
        self._watches.publish(events)
        if self._closed:
            return
        if descriptor != self._descriptor:
            self._set_reader(descriptor)
        if self._timer is not None:
            self._timer.cancel()
        if delay is not None:
            self._timer = asyncio.get_running_loop().call_later(min(delay, _MAX_TIMER), self._on_change)

    def _close_lost(self, error: StoreError, directory: Directory) -> None:
        """Close the descriptor after the loop has stopped watching it: its number is soon reused."""
        self._set_reader(None)
        directory.close()
        self._watches.end(error)

    # On the store's thread

    def _execute(
        self,
        loop: asyncio.AbstractEventLoop,
        operation: Callable[[Directory], R],
        then: Callable[[R], None] | None,
    ) -> R:
        directory = self._up_to_date(loop)
        try:
            result = operation(directory)
        finally:
            directory.delete_expired()
            # In this order, and before the result: a watch gets no event twice, and a writer's own watch its change first.
            loop.call_soon_threadsafe(
                self._publish, directory.take_events(), directory.fileno(), directory.seconds_until_expiry()
            )
        if then is not None:
            loop.call_soon_threadsafe(then, result)
        return result

    def _up_to_date(self, loop: asyncio.AbstractEventLoop) -> Directory:
        if self._directory is None:
            if self._make:
                make_directory(self._root)
                self._make = False
            self._directory = Directory(self._root, self._index, self._clock, defer=self._defer)
            return self._directory
        try:
            self._directory.catch_up()
        except StoreError as error:
            directory, self._directory = self._directory, None
            loop.call_soon_threadsafe(self._close_lost, error, directory)
            raise
        return self._directory

    def _close_directory(self) -> None:
        if self._directory is not None:
            self._directory.close()
            self._directory = None
