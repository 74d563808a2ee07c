"""A directory of manifests as a store: what people edit, and what several processes on one machine write.

    *.yaml *.yml *.json ── inotify ─▶ changed paths ─▶ read (worker thread) ─▶ index ─▶ watchers
            ▲                                                                    ▲
            └──── write by rename, under flock ◀── put, delete ──────────────────┘

`put` writes new objects to KIND/NAMESPACE/NAME.json (`-` for none); one that lives in a person's file is changed there.
A file that turns bad keeps its last good objects. Renames are not synced to disk: after a power failure the lab or the
agents say again what they said.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TypeVar

from percale.errors import NotFound, PercaleError
from percale.model.kinds import KINDS, Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.directory import Directory
from percale.store.documents import boot_time
from percale.store.index import Held, Identity, Index, Reading
from percale.store.noticing import Notices
from percale.store.protocol import Deleted, Event, Snapshot, Trouble, Upserted
from percale.store.watching import Watchers

T = TypeVar("T", bound=Object)


class FilesStore:
    """Opens its directory when it is first asked; belongs to one event loop."""

    def __init__(self, directory: Path, kinds: Kinds = KINDS) -> None:
        self._directory = Directory(directory, kinds)
        self._index = Index()
        self._watchers = Watchers()
        self._notices: Notices | None = None
        self._opening: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        """Held from reading or writing files until the index has learnt of it: never learn the older after the newer."""
        self._changed: set[Path] = set()
        self._reading: asyncio.Task[None] | None = None
        self._ends: dict[Identity, asyncio.TimerHandle] = {}
        self._expiring: set[asyncio.Task[None]] = set()

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        await self._opened()
        found = [held.object for held in self._index.all((kind,)) if isinstance(held.object, kind)]
        return sorted(found, key=lambda obj: (obj.metadata.namespace or "", obj.metadata.name))

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable."""
        await self._opened()
        held = self._index.get((kind, key))
        return held.object if held is not None and isinstance(held.object, kind) else None

    async def watch(self, *kinds: type[Object]) -> AsyncIterator[Event]:
        """A Snapshot first, then every change in order. Raises StoreUnavailable."""
        await self._opened()

        def first() -> builtins.list[Event]:
            troubles = [Trouble(str(path), error) for path, error in self._index.troubles.items()]
            return [self._snapshot(kinds), *troubles]

        async for event in self._watchers.watch(kinds, first):
            yield event

    def _snapshot(self, kinds: tuple[type[Object], ...]) -> Snapshot:
        return Snapshot(tuple(held.object for held in self._index.all(kinds)))

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict, StoreUnavailable."""
        await self._opened()
        async with self._turn:
            held = self._index.get((type(obj), obj.key))
            path = held.path if held is not None else None
            reading, new = await asyncio.to_thread(self._directory.put, obj, path, expect, ttl)
            self._learn([reading])
        return new

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Remove the object. Raises NotFound, Conflict, StoreUnavailable."""
        await self._opened()
        async with self._turn:
            held = self._index.get((kind, key))
            if held is None:
                raise NotFound(f"there is no {kind.KIND} {key}")
            self._learn([await asyncio.to_thread(self._directory.delete, kind, key, held.path, expect)])

    async def close(self) -> None:
        """End all watches."""
        if self._notices is not None:
            self._notices.close()
            self._notices = None
        for timer in self._ends.values():
            timer.cancel()
        tasks = [task for task in (self._reading, *self._expiring) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watchers.close()

    # Opening

    async def _opened(self) -> None:
        """Once for all callers; tried again when it failed."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        await asyncio.to_thread(self._directory.prepare)
        self._notices = Notices(self._directory.root, self._noticed)
        async with self._turn:
            self._learn(await asyncio.to_thread(self._scan))

    def _scan(self) -> builtins.list[Reading]:
        """Watches first, so that no file is missed in between."""
        assert self._notices is not None
        return self._directory.read(self._notices.add_tree(self._directory.root))

    # What happens in the directory

    def _noticed(self, paths: Iterable[Path], *, overflow: bool) -> None:
        self._changed.update(paths)
        if overflow:
            self._changed.update(self._index.paths())
            self._changed.add(self._directory.root)
        if self._changed and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read_changed(), name="store-read")

    async def _read_changed(self) -> None:
        while self._changed:
            async with self._turn:
                paths, self._changed = self._changed, set()
                self._learn(await asyncio.to_thread(self._read, paths))

    def _read(self, paths: Iterable[Path]) -> builtins.list[Reading]:
        assert self._notices is not None
        files: set[Path] = set()
        for path in paths:
            if path.is_dir():
                files.update(self._notices.add_tree(path))
            else:
                files.update(self._index.below(path) or {path})
        return self._directory.read(sorted(files))

    def _learn(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            for event in self._index.learn(reading):
                self._watchers.tell(event)
                if isinstance(event, Upserted | Deleted):
                    self._time((type(event.object), event.object.key))
            for identity in reading.leases:
                self._time(identity)

    # Leases

    def _time(self, identity: Identity) -> None:
        """Come back when this lease ends."""
        if (timer := self._ends.pop(identity, None)) is not None:
            timer.cancel()
        held = self._index.get(identity)
        if held is not None and held.end is not None:
            delay = max(0.0, held.end - boot_time())
            self._ends[identity] = asyncio.get_running_loop().call_later(delay, self._ended, identity, held)

    def _ended(self, identity: Identity, held: Held) -> None:
        task = asyncio.create_task(self._expire(identity, held), name="store-expire")
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _expire(self, identity: Identity, held: Held) -> None:
        """Whoever notices first takes the file away; a lease that was renewed meanwhile is looked at again."""
        async with self._turn:
            try:
                self._learn([await asyncio.to_thread(self._directory.expire, held.path)])
            except PercaleError:  # a directory that cannot be written: the object ends for us all the same
                self._learn([Reading(held.path, [], error=None, leases=[])])
            self._time(identity)
