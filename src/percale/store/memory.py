"""A store in memory: the public fake. It passes the contract tests of the real ones (tests/contract/test_store.py)."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator
from typing import TypeVar

from percale.errors import Conflict, NotFound
from percale.model.meta import Object, ObjectKey
from percale.store.documents import versioned
from percale.store.protocol import Deleted, Event, Snapshot, Upserted
from percale.store.watching import Watchers

T = TypeVar("T", bound=Object)


class MemoryStore:
    """Everything that several nodes of a test share."""

    def __init__(self) -> None:
        self._objects: dict[tuple[type[Object], ObjectKey], Object] = {}
        self._ends: dict[tuple[type[Object], ObjectKey], asyncio.TimerHandle] = {}
        self._watchers = Watchers()

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys."""
        found = [obj for obj in self._objects.values() if isinstance(obj, kind)]
        return sorted(found, key=lambda obj: (obj.metadata.namespace or "", obj.metadata.name))

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None."""
        obj = self._objects.get((kind, key))
        return obj if isinstance(obj, kind) else None

    def watch(self, *kinds: type[Object]) -> AsyncIterator[Event]:
        """A Snapshot first, then every change in order."""

        def snapshot() -> builtins.list[Event]:
            return [Snapshot(tuple(obj for obj in self._objects.values() if isinstance(obj, kinds)))]

        return self._watchers.watch(kinds, snapshot)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict."""
        identity = (type(obj), obj.key)
        self._check(identity, expect)
        if (timer := self._ends.pop(identity, None)) is not None:
            timer.cancel()
        if ttl is not None:
            self._ends[identity] = asyncio.get_running_loop().call_later(ttl, self._remove, identity)
        new = versioned(obj)
        if self._objects.get(identity) != new:
            self._objects[identity] = new
            self._watchers.tell(Upserted(new))
        return new

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Remove the object. Raises NotFound, Conflict."""
        if (kind, key) not in self._objects:
            raise NotFound(f"there is no {kind.KIND} {key}")
        self._check((kind, key), expect)
        self._remove((kind, key))

    async def close(self) -> None:
        """End all watches."""
        for timer in self._ends.values():
            timer.cancel()
        self._watchers.close()

    def _check(self, identity: tuple[type[Object], ObjectKey], expect: str | None) -> None:
        check_version(*identity, self._objects.get(identity), expect)

    def _remove(self, identity: tuple[type[Object], ObjectKey]) -> None:
        if (timer := self._ends.pop(identity, None)) is not None:
            timer.cancel()
        self._watchers.tell(Deleted(self._objects.pop(identity)))


def check_version(kind: type[Object], key: ObjectKey, current: Object | None, expect: str | None) -> None:
    """Raises Conflict when what is there is not what the writer expects."""
    if expect is None:
        return
    version = current.metadata.resourceVersion if current is not None else ""
    if version == expect:
        return
    if current is None:
        what = "is gone"
    elif expect == "":
        what = "exists already"
    else:
        what = f"has changed (version {version}, expected {expect})"
    raise Conflict(f"{kind.KIND} {key} {what}", hint="read it again")
