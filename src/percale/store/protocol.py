"""The store's edge: typed objects, listed, watched, put with a compare, leased. `files.py` and `memory.py` implement it;
all pass tests/contract/test_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeAlias, TypeVar

from msgspec import Struct

from percale.errors import PercaleError
from percale.model.meta import Object, ObjectKey

T = TypeVar("T", bound=Object)


class Snapshot(Struct, frozen=True):
    """Everything of the watched kinds, at once: a watch begins with it, and Troubles; again after the store lost its place.

    Kind by kind, as they were asked for.
    """

    objects: Sequence[Object]
    """Made one by one while somebody looks through them, where a store keeps them as bytes: they may be very many."""


class Upserted(Struct, frozen=True):
    """An object is new or changed."""

    object: Object


class Deleted(Struct, frozen=True):
    """An object is gone; `object` is its last known state."""

    object: Object


class Trouble(Struct, frozen=True):
    """Something in the store cannot be read (a file turned bad): its last good objects stay in force.

    `error` None: the trouble at `source` is over.
    """

    source: str
    error: PercaleError | None


Event: TypeAlias = Snapshot | Upserted | Deleted | Trouble


class Store(Protocol):
    """Errors: Conflict, NotFound, StoreUnavailable, BadManifest."""

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys."""

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None."""

    def watch(self, *kinds: type[Object]) -> AsyncIterator[Event]:
        """A Snapshot, then every change in order. Close the iterator to stop.

        What the Snapshot lacks, because it cannot be read, is told before it: who acts on a Snapshot has to know.
        """

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object; returns it with its new `metadata.resourceVersion`.

        `expect` None: whatever is there. `expect` "": it must not exist yet. Else: its version must be this one.
        `ttl` in seconds: the object disappears unless it is put again in time (a lease). Raises Conflict.
        """

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Remove the object. Raises NotFound, or Conflict when its version is not `expect`."""

    async def close(self) -> None:
        """End all watches."""
