"""The Kubernetes store. Opened by `registry.py`; see the package for its parts.

Objects are read as the model knows them; a change keeps all other fields, by a merge patch with the version that was read.
Versions are the API's; those of SubnetLeases, which are parts of Nodes, are of their content. Nothing here ends by itself: the
server forgets Events after its own time, and leases go with their Nodes, so a `ttl` means nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from percale.errors import Conflict, NotFound, StoreUnavailable
from percale.model.event import Event as EventObject
from percale.model.manifest.decode import with_namespace
from percale.model.manifest.encode import to_plain
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease
from percale.store.decode import decode_object
from percale.store.kubernetes.address import PREFIX, parse_address
from percale.store.kubernetes.api_client import ApiClient, ApiRefusal
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.kubeconfig import access_at
from percale.store.kubernetes.list_pages import KindAbsent, list_pages
from percale.store.kubernetes.merge_patch import merge_patch
from percale.store.kubernetes.node_leases import LeaseFormat, NodeLeases
from percale.store.kubernetes.resources import collection_path, object_path, operation
from percale.store.kubernetes.watch import ApiWatch
from percale.store.last_state import LastState
from percale.store.protocol import Event
from percale.store.versioning import check_version, not_found
from percale.store.watch_queue import Watches

T = TypeVar("T", bound=Object)

_ATTEMPTS = 10
"""At an unconditional change of an object that others change at the same time."""
_SERVERS_METADATA = frozenset({"resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "generation"})


def open_kubernetes(rest: str, last_state: LastState | None = None) -> KubernetesStore:
    """The store at an address. Raises BadConfig."""
    address = parse_address(rest)
    return KubernetesStore(access_at(address), annotation_prefix=address.annotation_prefix, last_state=last_state)


class KubernetesStore:
    """For one event loop. Connects at the first operation."""

    def __init__(
        self, access: ClusterAccess, *, annotation_prefix: str = PREFIX, last_state: LastState | None = None
    ) -> None:
        """`last_state` keeps what watches see: there is one watch of a kind at a time then."""
        self.hosts = (urlsplit(access.server).hostname or "",)
        self._api = ApiClient(access)
        self._last_state = last_state
        self._format = LeaseFormat(annotation_prefix)
        self._leases = NodeLeases(self._api, self._format)
        self._holders: dict[ObjectKey, str] = {}
        """The nodes of leases as last seen: `get` of one lease need not list all Nodes."""
        self._watches = Watches()
        self._closed = False

    async def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. Raises StoreUnavailable."""
        self._require_open()
        if kind is SubnetLease:
            leases = filter(None, map(self._format.lease_of, await self.list(Node)))
            found: list[Any] = sorted(leases, key=_key)
            self._holders = {lease.key: lease.spec.node for lease in found}
            return found
        found = []
        with suppress(KindAbsent):
            async for page in list_pages(self._api, kind):
                found += [decode_object(data, kind) for data in page.items or ()]
        return sorted(found, key=_key)

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object, or None. Raises StoreUnavailable."""
        self._require_open()
        if kind is SubnetLease:
            return await self._lease(key)  # type: ignore[return-value]
        data = await self._read(kind, key)
        return decode_object(data, kind) if data is not None else None

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """A Snapshot once all kinds are listed, then the changes. What cannot be read now is a ReadProblem."""
        self._require_open()
        watch = ApiWatch(self._api, self._format, kinds, isolate=isolate, last_state=self._last_state)
        self._watches.add(watch.queue, ())
        try:
            async with aclosing(watch.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.remove(watch.queue)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Write the object. Raises Conflict, StoreUnavailable, BadManifest, and AddressRefused for a lease (`node_leases.py`)."""
        self._require_open()
        obj = with_namespace(obj)
        if isinstance(obj, SubnetLease):
            written = await self._leases.put(obj, expect)
            self._holders[written.key] = written.spec.node
            return written  # type: ignore[return-value]
        if expect == "":
            return await self._create(obj)
        if isinstance(obj, EventObject) and expect is None:
            return await self._report(obj)
        for _ in range(_ATTEMPTS):
            data = await self._read(type(obj), obj.key)
            current = decode_object(data, type(obj)) if data is not None else None
            check_version(type(obj), obj.key, current.metadata.resourceVersion if current else None, expect)
            try:
                if data is None or current is None:
                    return await self._create(obj)
                return await self._change(obj, current, data)
            except (Conflict, NotFound):
                if expect is not None:
                    raise
        raise StoreUnavailable(f"{obj.KIND} {obj.key} changes all the time", where=self._api.server)

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Delete the object. Raises NotFound, Conflict, StoreUnavailable."""
        self._require_open()
        if kind is SubnetLease:
            lease = await self._lease(key)
            if lease is None:
                raise not_found(kind, key)
            check_version(kind, key, lease.metadata.resourceVersion, expect)
            await self._leases.delete(lease)
            return
        body = {"preconditions": {"resourceVersion": expect}} if expect is not None else {}
        try:
            await self._api.delete(object_path(kind, key), operation("delete", kind), body)
        except ApiRefusal as error:
            raise _translated(error, kind, key) from error

    async def close(self) -> None:
        """End all watches."""
        if not self._closed:
            self._closed = True
            self._watches.end()
            if self._last_state is not None:
                await self._last_state.close()
            await self._api.close()

    # Leases

    async def _lease(self, key: ObjectKey) -> SubnetLease | None:
        if key in self._holders:
            node = await self.get(Node, ObjectKey(None, self._holders[key]))
            lease = self._format.lease_of(node) if node is not None else None
            if lease is not None and lease.key == key:
                return lease
        return next((lease for lease in await self.list(SubnetLease) if lease.key == key), None)

    # Other kinds

    async def _read(self, kind: type[Object], key: ObjectKey) -> bytes | None:
        try:
            return await self._api.get(object_path(kind, key), operation("get", kind))
        except ApiRefusal as error:
            if error.code == 404:
                return None
            raise _translated(error, kind, key) from error

    async def _create(self, obj: T) -> T:
        """Raises Conflict if it exists."""
        path = collection_path(type(obj), obj.metadata.namespace)
        body = _writable(to_plain(obj))
        try:
            created = decode_object(await self._api.create(path, operation("create", type(obj)), body), type(obj))
        except ApiRefusal as error:
            if error.reason == "AlreadyExists":
                raise Conflict(f"{obj.KIND} {obj.key} exists already", hint="read it again") from error
            if error.code == 404 and (not error.reason or not type(obj).NAMESPACED):  # there is no such path
                what = f"the server has no {type(obj).PLURAL}"
                raise NotFound(what, hint="apply their CustomResourceDefinition") from error
            if error.code == 404:  # the namespace
                raise NotFound(error.message) from error
            raise _translated(error, type(obj), obj.key) from error
        if "status" not in body:
            return created
        return await self._patch(obj, {"status": body["status"]}, "status")

    async def _change(self, obj: T, current: T, data: bytes) -> T:
        """`data` is the current object as the server has it. Raises Conflict, NotFound."""
        raw = msgspec.json.decode(data)
        change = merge_patch(raw, _writable(to_plain(current)), _writable(to_plain(obj)))
        status = change.pop("status", None)
        version = current.metadata.resourceVersion
        if change:
            current = await self._patch(obj, _expecting(change, version))
            version = current.metadata.resourceVersion
        if status is not None:
            current = await self._patch(obj, _expecting({"status": status}, version), "status")
        return current

    async def _report(self, event: T) -> T:
        """Events need no right to read them."""
        try:
            return await self._create(event)
        except Conflict:
            return await self._patch(event, _writable(to_plain(event)))

    async def _patch(self, obj: T, body: dict[str, Any], subresource: str = "") -> T:
        kind = type(obj)
        try:
            data = await self._api.patch(
                object_path(kind, obj.key, subresource), operation("patch", kind, subresource), body
            )
        except ApiRefusal as error:
            raise _translated(error, kind, obj.key) from error
        return decode_object(data, kind)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", where=self._api.server)


def _key(obj: Object) -> ObjectKey:
    return obj.key


def _writable(plain: dict[str, Any]) -> dict[str, Any]:
    """Without what the server decides."""
    metadata = {field: value for field, value in plain["metadata"].items() if field not in _SERVERS_METADATA}
    return {**plain, "metadata": metadata}


def _expecting(change: dict[str, Any], version: str | None) -> dict[str, Any]:
    return {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": version}}


def _translated(error: ApiRefusal, kind: type[Object], key: ObjectKey) -> Exception:
    match error.code:
        case 404:
            return not_found(kind, key)
        case 409:
            return Conflict(f"{kind.KIND} {key} has changed: {error.message}", hint="read it again")
    return StoreUnavailable(f"{kind.KIND} {key}: {error.message}")
