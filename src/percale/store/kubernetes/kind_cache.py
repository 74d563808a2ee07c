"""The watched objects of one kind, encoded; what changes between two states of the server becomes events.

`list_watch.py` updates it. A kind may be a projection of another one: a SubnetLease of a Node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject, LazyObjects, encode
from percale.store.protocol import Deleted, Upserted

Projection: TypeAlias = Callable[[Object], Object | None]
"""None: this object has none."""
Change: TypeAlias = tuple[type[Upserted | Deleted], EncodedObject]
"""An event that is not decoded: before the Snapshot, nobody reads it."""


class KindCache:
    """By the key of the server's object."""

    def __init__(self, kind: type[Object], project: Projection | None = None) -> None:
        self.kind = kind
        self._project = project
        self._entries: dict[ObjectKey, EncodedObject] = {}

    def __contains__(self, source: ObjectKey) -> bool:
        return source in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def objects(self) -> LazyObjects:
        """In the order of their keys."""
        return LazyObjects(sorted(self._entries.values(), key=_order))

    def entry_of(self, obj: Object) -> EncodedObject | None:
        """What this cache keeps of an object of the server."""
        if self._project is None:
            return encode(obj, obj.metadata.resourceVersion).compressed()
        projected = self._project(obj)
        return encode(projected) if projected is not None else None

    def put(self, source: ObjectKey, new: EncodedObject | None) -> Iterator[Change]:
        """One object was created or changed. Equal content is no event: Nodes change with every heartbeat."""
        old = self._entries.get(source)
        if new is None:
            yield from self.remove(source)
            return
        self._entries[source] = new
        if old is not None and old.key != new.key:
            yield Deleted, old
            old = None
        if old is None or old.packed != new.packed:
            yield Upserted, new

    def remove(self, source: ObjectKey) -> Iterator[Change]:
        """One object was deleted, or is projected to none any more."""
        old = self._entries.pop(source, None)
        if old is not None:
            yield Deleted, old

    def replace(self, current: Mapping[ObjectKey, EncodedObject | None]) -> Iterator[Change]:
        """All objects were listed again: the differences."""
        for source in self._entries.keys() - current.keys():
            yield from self.remove(source)
        for source, new in current.items():
            yield from self.put(source, new)

    def keep(self, source: ObjectKey) -> EncodedObject | None:
        """The last valid state of an object that is invalid now."""
        return self._entries.get(source)


def _order(entry: EncodedObject) -> ObjectKey:
    return entry.key
