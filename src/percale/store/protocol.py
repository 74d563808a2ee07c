"""The store interface: list, watch, compare-and-put and leases of typed objects. `files/`, `kubernetes/`, `etcd/` and `memory.py`
implement it; all pass tests/contract/test_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol, TypeAlias, TypeVar, cast

from msgspec import Struct

from percale.errors import PercaleError
from percale.model.meta import Object, ObjectKey

T = TypeVar("T", bound=Object)


class Snapshot(Struct, frozen=True):
    """All objects of the watched kinds, in the requested order of kinds.

    A watch begins with it, after the ReadProblems; sent again when the store does not know what changed in between.
    """

    by_kind: Mapping[type[Object], Sequence[Object]]
    """Decoded lazily during iteration if the store keeps them encoded: there may be very many."""

    @property
    def objects(self) -> Iterator[Object]:
        """All of them, kind by kind."""
        return chain.from_iterable(self.by_kind.values())

    def of(self, kind: type[T]) -> Sequence[T]:
        """Those of one kind."""
        return cast("Sequence[T]", self.by_kind[kind])


class Upserted(Struct, frozen=True):
    """An object was created or changed."""

    object: Object


class Deleted(Struct, frozen=True):
    """An object was deleted; `object` is its last known state."""

    object: Object


class ReadProblem(Struct, frozen=True):
    """Something in the store cannot be read (a file became invalid): its last valid objects stay current.

    `error` None: the problem of `source` is solved.
    """

    source: str
    error: PercaleError | None
    complete: bool = False
    """Whether no object is missing all the same: fields that nobody knows are left out, another file has the object too, or
    the last state of all objects is there.
    """
    about: tuple[type[Object], ObjectKey] | None = None
    """The object that is invalid, where its server says which one it is."""


Event: TypeAlias = Snapshot | Upserted | Deleted | ReadProblem


class Store(Protocol):
    """Errors: Conflict, NotFound, StoreUnavailable, BadManifest."""

    @property
    def hosts(self) -> Sequence[str]:
        """Names or addresses of the servers that it speaks to."""

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys."""

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None."""

    def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """A Snapshot, then every change in order. Close the iterator to stop.

        What the Snapshot lacks, because it cannot be read, is reported before it: readers of a Snapshot need to know. With
        `isolate` a NetworkPolicy that is invalid, and of which no valid state is known, is its isolation (`decode.py`).
        """

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object; returns it with its new `metadata.resourceVersion`.

        `expect` None: unconditionally. `expect` "": it must not exist. Else: its version must equal this.
        `ttl` in seconds: the object expires unless it is put again in time (a lease). A store in which nothing expires
        ignores it. Raises Conflict.
        """

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Delete the object. Raises NotFound, or Conflict if its version is not `expect`."""

    async def close(self) -> None:
        """End all watches."""
