"""An in-memory store for tests; it passes the same contract tests as the files store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, TypeVar

from percale.errors import StoreUnavailable
from percale.model.meta import Object, ObjectKey
from percale.store.protocol import Deleted, Event, Snapshot, Upserted
from percale.store.versioning import check_version, not_found, versioned
from percale.store.watch_queue import Watch, Watches

T = TypeVar("T", bound=Object)


class MemoryStore:
    """For one event loop."""

    def __init__(self) -> None:
        self._objects: dict[type[Object], dict[ObjectKey, Any]] = {}
        self._leases: dict[tuple[type[Object], ObjectKey], asyncio.TimerHandle] = {}
        self._watches = Watches()
        self._closed = False

    @property
    def hosts(self) -> Sequence[str]:
        """None."""
        return ()

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys."""
        self._require_open()
        return [obj for _, obj in self._items(kind)]

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None."""
        self._require_open()
        found: T | None = self._objects.get(kind, {}).get(key)
        return found

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """A Snapshot first, then every change in order."""
        self._require_open()
        watch = Watch(kinds)
        self._watches.add(watch, [Snapshot({kind: [obj for _, obj in self._items(kind)] for kind in kinds})])
        try:
            async for event in watch.events():
                yield event
        finally:
            self._watches.remove(watch)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict."""
        self._require_open()
        stored = versioned(obj)
        kind, key = type(stored), stored.key
        objects = self._objects.setdefault(kind, {})
        current = objects.get(key)
        check_version(kind, key, current.metadata.resourceVersion if current else None, expect)
        self._renew(kind, key, ttl)
        if stored != current:
            objects[key] = stored
            self._watches.publish([Upserted(stored)])
        return stored

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Delete the object. Raises NotFound, Conflict."""
        self._require_open()
        current = self._objects.get(kind, {}).get(key)
        if current is None:
            raise not_found(kind, key)
        check_version(kind, key, current.metadata.resourceVersion, expect)
        self._remove(kind, key)

    async def close(self) -> None:
        """End all watches."""
        self._closed = True
        for timer in self._leases.values():
            timer.cancel()
        self._watches.end()

    def _items(self, kind: type[Object]) -> Iterable[tuple[ObjectKey, Any]]:
        return sorted(self._objects.get(kind, {}).items())

    def _renew(self, kind: type[Object], key: ObjectKey, ttl: float | None) -> None:
        timer = self._leases.pop((kind, key), None)
        if timer is not None:
            timer.cancel()
        if ttl is not None:
            self._leases[kind, key] = asyncio.get_running_loop().call_later(ttl, self._remove, kind, key)

    def _remove(self, kind: type[Object], key: ObjectKey) -> None:
        self._renew(kind, key, None)
        self._watches.publish([Deleted(self._objects[kind].pop(key))])

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
