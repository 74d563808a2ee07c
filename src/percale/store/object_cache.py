"""An in-memory copy of the store, updated by its events and, before them, by the owner's own writes.

The lab's `cluster` updates it; controllers, kubelet and verbs read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from percale.model.meta import Object, ObjectKey
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted

T = TypeVar("T", bound=Object)


class ObjectCache:
    """Objects by kind and key, and the store's read problems."""

    def __init__(self) -> None:
        self._objects: dict[type[Object], dict[ObjectKey, Object]] = {}
        self._deleted_uids: set[str] = set()
        self.read_problems: dict[str, str] = {}

    def handle(self, event: Event) -> None:
        """Apply an event of the store."""
        match event:
            case Snapshot() as snapshot:
                self._objects = {}
                for obj in snapshot.objects:
                    self.put(obj)
            case Upserted(obj):
                if obj.metadata.uid not in self._deleted_uids:  # an event from before its deletion
                    self.put(obj)
            case Deleted(obj):
                known = self.get(type(obj), obj.key)
                if (
                    known is not None and known.metadata.uid == obj.metadata.uid
                ):  # else another object has its key already
                    self.remove(obj)
            case ReadProblem(source, None):
                self.read_problems.pop(source, None)
            case ReadProblem(source, error):
                self.read_problems[source] = str(error)

    def put(self, obj: Object) -> None:
        """Add or replace an object."""
        self._objects.setdefault(type(obj), {})[obj.key] = obj

    def remove(self, obj: Object) -> None:
        """Remove an object; later events of it are ignored."""
        self._objects.get(type(obj), {}).pop(obj.key, None)
        if obj.metadata.uid is not None:
            self._deleted_uids.add(obj.metadata.uid)

    def all(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys."""
        found = self._objects.get(kind, {})
        return [obj for _, obj in sorted(found.items(), key=_order) if isinstance(obj, kind)]

    def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object."""
        obj = self._objects.get(kind, {}).get(key)
        return obj if isinstance(obj, kind) else None

    def all_kinds(self) -> list[Object]:
        return [obj for objects in self._objects.values() for obj in objects.values()]

    def keys(self, kind: type[Object]) -> Iterable[ObjectKey]:
        """The keys of a kind's objects."""
        return self._objects.get(kind, {}).keys()


def _order(item: tuple[ObjectKey, Object]) -> tuple[str, str]:
    return (item[0].namespace or "", item[0].name)
