"""The etcd store: flannel's leases and network configuration, and Percale's objects, under one prefix of an etcd cluster (v3).

    list, watch ─▶ all keys at one revision ─▶ Contents ─▶ Snapshot
                   then what changes from there on ─▶ Contents ─▶ events (compacted: all keys again, and the differences)
    put, delete ─▶ read, compare, and a transaction that requires the keys unchanged since

Opened by `registry.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from math import ceil
from typing import TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from percale.errors import StoreUnavailable
from percale.model.kinds import KINDS, Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject, encode
from percale.store.etcd import messages
from percale.store.etcd.address import Address
from percale.store.etcd.client import EtcdClient
from percale.store.etcd.contents import Contents
from percale.store.etcd.layout import Identity, Layout
from percale.store.etcd.messages import Body, Granted, KeptAlive, KeyValue, RangeResponse, TxnResponse
from percale.store.protocol import Event
from percale.store.versioning import check_version, not_found, versioned
from percale.store.watch_queue import Watch, Watches

T = TypeVar("T", bound=Object)

_PAGE = 1000
"""Keys of one range request."""
_SHORTEST = 2
"""Seconds of a lease: etcd grants none that is shorter than one and a half of its elections."""
_PAUSE = 0.1
"""Seconds before a watch whose connection ended goes on."""


class _Current(Struct, frozen=True):
    """An object as it is now; `revisions` 0 of keys that do not exist, `lease` 0 without one."""

    entry: EncodedObject | None
    revisions: dict[bytes, int]
    lease: int


class EtcdStore:
    """For one event loop."""

    def __init__(self, address: Address, kinds: Kinds = KINDS) -> None:
        """Raises BadConfig."""
        self.hosts = tuple([urlsplit(each).hostname or "" for each in address.endpoints])
        self._client = EtcdClient(address)
        self._layout = Layout(address.prefix, kinds)
        self._watches = Watches()
        self._closed = False

    async def list(self, kind: type[T]) -> list[T]:
        """All readable objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        contents = Contents(self._layout, [kind])
        listed, _ = await self._read_all([kind])
        deque(contents.replace(listed), maxlen=0)
        return list(contents.objects(kind))  # type: ignore[arg-type]

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable, BadManifest."""
        found = await self._read((kind, key))
        return None if found.entry is None else found.entry.object  # type: ignore[return-value]

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """What cannot be read, a Snapshot, then every change in order. Raises StoreUnavailable."""
        self._require_open()
        watch = Watch(kinds)
        self._watches.add(watch, ())
        following = asyncio.create_task(self._follow(watch, kinds, isolate=isolate))
        try:
            async for event in watch.events():
                yield event
        finally:
            self._watches.remove(watch)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

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
        await self._client.close()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", where=self._layout.prefix.decode())

    # Watching

    async def _follow(self, watch: Watch, kinds: tuple[type[Object], ...], *, isolate: bool) -> None:
        try:
            contents = Contents(self._layout, kinds, isolate=isolate)
            listed, revision = await self._read_all(kinds)
            deque(contents.replace(listed), maxlen=0)  # in the Snapshot
            for problem in contents.problems:
                watch.offer(problem)
            watch.offer(contents.snapshot)
            while True:
                revision = await self._follow_from(revision, contents, watch)
        except Exception as error:
            watch.end(error)

    async def _follow_from(self, revision: int, contents: Contents, watch: Watch) -> int:
        """The changes after this revision, until the connection ends; returns how far it went."""
        async with aclosing(self._client.watch(self._layout.prefix, revision + 1)) as responses:
            async for response in responses:
                if response.compact_revision:
                    listed, revision = await self._read_all(contents.kinds)
                    for event in contents.replace(listed):
                        watch.offer(event)
                    return revision
                if response.canceled:
                    raise StoreUnavailable(response.cancel_reason or "the watch was cancelled", where="etcd")
                for event in contents.apply(response.events):
                    watch.offer(event)
                revision = max((each.kv.mod_revision for each in response.events), default=revision)
        await asyncio.sleep(_PAUSE)
        return revision

    # Reading and writing keys

    async def _read_all(self, kinds: Iterable[type[Object]]) -> tuple[Sequence[KeyValue], int]:
        """All keys of these kinds as they were at one revision, and which one."""
        self._require_open()
        found: list[KeyValue] = []
        revision = 0
        for prefix in dict.fromkeys(prefix for kind in kinds for prefix in self._layout.prefixes(kind)):
            last: bytes | None = None
            more = True
            while more:
                wanted = messages.range_of(prefix, after=last, revision=revision, limit=_PAGE)
                page = await self._client.call("kv/range", wanted, RangeResponse, repeatable=True)
                revision = revision or page.header.revision
                found += page.kvs
                more = page.more
                last = found[-1].key if found else None
        return found, revision

    async def _read(self, identity: Identity) -> _Current:
        self._require_open()
        keys = self._layout.keys(identity)
        reads = [{"request_range": {"key": key}} for key in keys]
        answer = await self._client.call("kv/txn", messages.txn((), reads), TxnResponse, repeatable=True)
        found = {each.key: each for part in answer.responses for each in part.response_range.kvs}
        revisions = {key: found[key].mod_revision if key in found else 0 for key in keys}
        lease = found[keys[0]].lease if keys[0] in found else 0
        return _Current(self._layout.decoded(identity, found), revisions, lease)

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
