"""The etcd store: flannel's leases and network configuration, and Percale's objects, under one prefix of an etcd cluster (v3).

    list        ─▶ all keys at one revision
    watch       ─▶ EtcdWatch ─▶ Contents
    put, delete ─▶ read, compare, and a transaction that requires the keys unchanged since

Opened by `registry.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, suppress
from math import ceil
from typing import TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from percale.errors import BadManifest, StoreUnavailable
from percale.model.kinds import KINDS, Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject, encode
from percale.store.etcd import messages
from percale.store.etcd.address import Address
from percale.store.etcd.client import EtcdClient
from percale.store.etcd.layout import Identity, Layout
from percale.store.etcd.messages import Body, Granted, KeptAlive, TxnResponse
from percale.store.etcd.watch import EtcdWatch, read_all
from percale.store.last_state import LastState
from percale.store.protocol import Event
from percale.store.versioning import check_version, not_found, versioned
from percale.store.watch_queue import Watches

T = TypeVar("T", bound=Object)

_SHORTEST = 2
"""Seconds of a lease: etcd grants none that is shorter than one and a half of its elections."""


class _Current(Struct, frozen=True):
    """An object as it is now; `revisions` 0 of keys that do not exist, `lease` 0 without one."""

    entry: EncodedObject | None
    revisions: dict[bytes, int]
    lease: int


class EtcdStore:
    """For one event loop."""

    def __init__(self, address: Address, kinds: Kinds = KINDS, last_state: LastState | None = None) -> None:
        """`last_state` keeps what watches see: there is one watch of a kind at a time then. Raises BadConfig."""
        self.hosts = tuple([urlsplit(each).hostname or "" for each in address.endpoints])
        self._last_state = last_state
        self._client = EtcdClient(address)
        self._layout = Layout(address.prefix, kinds)
        self._watches = Watches()
        self._closed = False

    async def list(self, kind: type[T]) -> list[T]:
        """All readable objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        self._require_open()
        listed, _ = await read_all(self._client, self._layout, [kind])
        objects = []
        for identity, keys in self._layout.grouped(listed)[0].items():
            with suppress(BadManifest):
                obj = self._layout.decoded(identity, keys)
                if isinstance(obj, kind):
                    objects.append(versioned(obj))
        return sorted(objects, key=lambda obj: obj.key)

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable, BadManifest."""
        found = await self._read((kind, key))
        return None if found.entry is None else found.entry.object  # type: ignore[return-value]

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """A Snapshot, then every change in order. What cannot be read now is a ReadProblem."""
        self._require_open()
        watch = EtcdWatch(self._client, self._layout, kinds, isolate=isolate, last_state=self._last_state)
        self._watches.add(watch.queue, ())
        try:
            async with aclosing(watch.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.remove(watch.queue)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict, StoreUnavailable, BadManifest."""
        stored = versioned(obj)
        kind, key = identity = (type(stored), stored.key)
        values = self._layout.values(stored)
        while True:
            current = await self._read(identity)
            check_version(kind, key, current.entry.version if current.entry else None, expect)
            lease = await self._lease(current, ttl)
            if current.entry == encode(stored) and current.lease == lease:
                return stored
            if await self._write(current, [messages.put(key, value, lease) for key, value in values.items()]):
                return stored

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Delete the object. Raises NotFound, Conflict, StoreUnavailable, BadManifest."""
        while True:
            current = await self._read((kind, key))
            if current.entry is None:
                raise not_found(kind, key)
            check_version(kind, key, current.entry.version, expect)
            if await self._write(current, map(messages.delete, current.revisions)):
                return

    async def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._watches.end()
        if self._last_state is not None:
            await self._last_state.close()
        await self._client.close()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", where=self._layout.prefix.decode())

    # Reading and writing keys

    async def _read(self, identity: Identity) -> _Current:
        self._require_open()
        keys = self._layout.keys(identity)
        reads = [{"request_range": {"key": key}} for key in keys]
        answer = await self._client.call("kv/txn", messages.txn((), reads), TxnResponse, repeatable=True)
        found = {each.key: each for part in answer.responses for each in part.response_range.kvs}
        revisions = {key: found[key].mod_revision if key in found else 0 for key in keys}
        lease = found[keys[0]].lease if keys[0] in found else 0
        obj = self._layout.decoded(identity, found)
        return _Current(encode(obj) if obj is not None else None, revisions, lease)

    async def _write(self, current: _Current, changes: Iterable[Body]) -> bool:
        """False if another writer was faster."""
        wanted = messages.txn(current.revisions.items(), list(changes))
        return (await self._client.call("kv/txn", wanted, TxnResponse)).succeeded

    async def _lease(self, current: _Current, ttl: float | None) -> int:
        """An etcd lease that ends in so many seconds: the object's own one, renewed, or a new one. 0: none."""
        if ttl is None:
            return 0
        seconds = ceil(ttl)
        if current.lease:
            kept = await self._client.call("lease/keepalive", {"ID": current.lease}, KeptAlive, repeatable=True)
            if kept.result.ttl == max(seconds, _SHORTEST):
                return current.lease
        return (await self._client.call("lease/grant", {"TTL": max(seconds, _SHORTEST)}, Granted)).id
