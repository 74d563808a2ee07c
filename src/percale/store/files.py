"""The files store: a directory of YAML or JSON manifests, which people and several processes share. Made by `opening`.

    event loop                      the store's one thread
    list get put delete watch ────▶ Directory (which catches up with the files first)
    inotify is readable, a lease ends ─▶ ┘ └── events, before the answer ──▶ Watches ─▶ every watch

Objects that the store is the first to write go to `KIND/NAMESPACE/NAME.json`; one that is in a person's file stays there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from percale.errors import StoreError, StoreUnavailable
from percale.model.kinds import KINDS, Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.directory import Directory
from percale.store.leasing import BootClock
from percale.store.packed import Unpacked
from percale.store.protocol import Event, Snapshot
from percale.store.watching import Watch, Watches
from percale.store.writing import make_directory

T = TypeVar("T", bound=Object)
R = TypeVar("R")

_GATHERING = 0.005
"""Seconds from the first notice to the look: one written file is several notices, and files are written in swarms."""
_LONGEST_NAP = 60.0
"""Seconds between looks at leases: the event loop's clock stands still while the machine is suspended."""


class FilesStore:
    """For one event loop. The directory is read at the first question."""

    def __init__(self, root: Path, kinds: Kinds = KINDS, clock: BootClock | None = None, *, make: bool = True) -> None:
        """`make` the directory at the first question if it is not there; else that is StoreUnavailable."""
        self._root = root
        self._make = make
        """Only once: when it goes away while we use it, an empty one would read as a cluster without objects."""
        self._kinds = kinds
        self._clock = clock or BootClock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"store {root.name}")
        # Touched by the worker only:
        self._directory: Directory | None = None
        self._watches = Watches()
        self._descriptor: int | None = None
        """What the event loop listens to."""
        self._timer: asyncio.TimerHandle | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        return await self._ask(lambda directory: directory.list(kind))

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable."""
        return await self._ask(lambda directory: directory.get(kind, key))

    async def watch(self, *kinds: type[Object]) -> AsyncIterator[Event]:
        """What cannot be read, a Snapshot, then every change in order. Raises StoreUnavailable."""
        watch = Watch(kinds)

        def first(directory: Directory) -> Iterable[Event]:
            return [
                *directory.troubles,
                Snapshot(Unpacked([each for kind in kinds for each in directory.entries(kind)])),
            ]

        try:
            await self._ask(first, then=lambda events: self._watches.begin(watch, events))
            async for event in watch.events():
                yield event
        finally:
            self._watches.leave(watch)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict, StoreUnavailable, BadManifest."""
        return await self._ask(lambda directory: directory.put(obj, expect, ttl))

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Remove the object. Raises NotFound, Conflict, StoreUnavailable, BadManifest."""
        await self._ask(lambda directory: directory.delete(kind, key, expect))

    async def close(self) -> None:
        """End all watches."""
        if self._closed:
            return
        self._closed = True
        self._listen(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._looks:
            await asyncio.wait(self._looks)
        await asyncio.get_running_loop().run_in_executor(self._worker, self._shut)
        self._worker.shutdown()
        self._watches.end()

    # On the event loop

    async def _ask(self, question: Callable[[Directory], R], then: Callable[[R], None] | None = None) -> R:
        if self._closed:
            raise StoreUnavailable("the store is closed", where=str(self._root))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._answer, loop, question, then)

    def _listen(self, descriptor: int | None) -> None:
        """Be told when the files change."""
        loop = asyncio.get_running_loop()
        if self._descriptor is not None:
            loop.remove_reader(self._descriptor)
        self._descriptor = descriptor
        if descriptor is not None:
            loop.add_reader(descriptor, self._notice)

    def _notice(self) -> None:
        """The files changed, or a lease may have ended: let the worker look."""
        if self._descriptor is not None and not self._closed:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            look = asyncio.get_running_loop().create_task(self._look())
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)

    async def _look(self) -> None:
        await asyncio.sleep(_GATHERING)
        try:
            await self._ask(lambda directory: None)
        except StoreError:
            return  # the watches have been told
        if self._descriptor is not None and not self._closed:
            asyncio.get_running_loop().add_reader(self._descriptor, self._notice)

    def _publish(self, events: Iterable[Event], descriptor: int, rest: float | None) -> None:
        """What the worker found out; called in the order in which it did."""
        self._watches.publish(events)
        if self._closed:
            return
        if descriptor != self._descriptor:
            self._listen(descriptor)
        if self._timer is not None:
            self._timer.cancel()
        if rest is not None:
            self._timer = asyncio.get_running_loop().call_later(min(rest, _LONGEST_NAP), self._notice)

    def _lose(self, error: StoreError, directory: Directory) -> None:
        """Closed here, after the loop has let go of it: a closed descriptor's number is soon another file's."""
        self._listen(None)
        directory.close()
        self._watches.end(error)

    # On the store's thread

    def _answer(
        self,
        loop: asyncio.AbstractEventLoop,
        question: Callable[[Directory], R],
        then: Callable[[R], None] | None,
    ) -> R:
        directory = self._caught_up(loop)
        try:
            answer = question(directory)
        finally:
            directory.bury()
            # In this order, and before the answer: a watch hears of nothing twice, and of its own writer's change first.
            loop.call_soon_threadsafe(self._publish, directory.take_events(), directory.fileno(), directory.rest())
        if then is not None:
            loop.call_soon_threadsafe(then, answer)
        return answer

    def _caught_up(self, loop: asyncio.AbstractEventLoop) -> Directory:
        if self._directory is None:
            if self._make:
                make_directory(self._root)
                self._make = False
            self._directory = Directory(self._root, self._kinds, self._clock)
            return self._directory
        try:
            self._directory.catch_up()
        except StoreError as error:
            directory, self._directory = self._directory, None
            loop.call_soon_threadsafe(self._lose, error, directory)
            raise
        return self._directory

    def _shut(self) -> None:
        if self._directory is not None:
            self._directory.close()
            self._directory = None
