"""The objects of any store, as the lab's verbs have those of a lab: `percale apply`, `get` and `delete`.

apply    manifests ─ load ─ validate ─ allocate (an API server does that itself) ─▶ changes.apply ─▶ compare-and-put
get      the store's watch ─▶ ObjectCache ─▶ selection, columns ─▶ tables; again after each event
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from msgspec.structs import replace

from percale.controllers.admission import admit, validate
from percale.controllers.service_networks import ServiceNetworks
from percale.counted import counted
from percale.errors import BadManifest, Conflict, NotFound, StoreError, StoreUnavailable
from percale.model.addresses import IPNetwork
from percale.model.field_path import format_field_path
from percale.model.kinds import KINDS
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.files import Files
from percale.model.manifest.load import LoadedManifests, load_manifests
from percale.model.manifest.strictness import Validation
from percale.model.manifest.unknown_fields import unread_fields
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.node import Node
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.objects import changes
from percale.objects.changes import missing_namespaces, named
from percale.objects.columns import ColumnContext
from percale.objects.selection import Kinds, Scope, find, sections
from percale.store.object_cache import ObjectCache
from percale.store.protocol import Event, ReadProblem, Snapshot, Store

T = TypeVar("T", bound=Object)


def load(files: Files, namespace: str | None, validation: Validation) -> LoadedManifests:
    """Raises BadManifest with all that is wrong."""
    loaded = load_manifests(files.documents, namespace=namespace or DEFAULT_NAMESPACE, unreadable=files.faults)
    for file, _ in loaded.networks:
        hint = "percale etcd init writes it into an etcd; elsewhere it is in a ConfigMap"
        raise BadManifest("a network configuration is no object", where=file, hint=hint)
    loaded.valid(validation)
    if files.names:
        loaded.not_empty()
    return replace(loaded, entries=tuple(named(loaded.entries)))


class StoreObjects:
    """What `apply` and `delete` change: each write is compared with what was read."""

    def __init__(self, store: Store, *, api_server: bool) -> None:
        """`api_server`: one answers, which admits, allocates, and has writers of its own."""
        self._store = store
        self._api_server = api_server

    async def all(self, kind: type[T]) -> Sequence[T]:
        return await self._store.list(kind)

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        return await self._store.get(kind, key)

    async def create(self, obj: Object) -> None:
        """What somebody else has created meanwhile is a Conflict."""
        await self._store.put(obj if self._api_server else changes.with_identity(obj), expect="")

    async def change(self, known: Object, edit: Callable[[Object], Object]) -> bool:
        current: Object | None = known
        while current is not None and (desired := edit(current)) != current:
            version = current.metadata.resourceVersion
            with suppress(Conflict):
                return (await self._store.put(desired, expect=version)).metadata.resourceVersion != version
            current = await self._store.get(type(known), known.key)
        return current is None

    async def delete(self, obj: Object) -> None:
        """An API server deletes a Namespace's objects by itself."""
        if isinstance(obj, Namespace) and not self._api_server:
            for kind in filter(lambda kind: kind.NAMESPACED, KINDS.values()):
                for inside in await self._store.list(kind):
                    if inside.metadata.namespace == obj.metadata.name:
                        await self._remove(inside)
        await self._remove(obj)

    async def _remove(self, obj: Object) -> None:
        with suppress(NotFound):
            await self._store.delete(type(obj), obj.key)

    async def apply(self, loaded: LoadedManifests, service_cidrs: Sequence[IPNetwork]) -> AsyncIterator[str]:
        """Create or change the objects, a line for each. Nothing is written before all is checked.

        Raises BadManifest, NotFound, StoreUnavailable; the error says how many are applied, if it comes late.
        """
        objects = await self._admitted(loaded, service_cidrs)
        missing: list[Namespace] = []
        if any(obj.metadata.namespace is not None for obj in objects):
            missing = missing_namespaces(objects, await self.all(Namespace))
        if missing and self._api_server:
            names = ", ".join(each.metadata.name for each in missing)
            raise NotFound(f"there is no namespace {names}", hint="nothing is applied; give its Namespace too")
        edit = changes.merged_with_others if self._api_server else changes.merged
        done = 0
        try:
            async for line in changes.apply(self, [*missing, *objects], edit):
                yield line
                done += 1
        except (StoreError, BadManifest) as error:
            hint = f"{done} of {counted(len(missing) + len(objects), 'object')} are applied; the same command goes on"
            raise type(error)(error.what, where=error.where, hint=hint if done else error.hint) from error

    async def _admitted(self, loaded: LoadedManifests, service_cidrs: Sequence[IPNetwork]) -> list[Object]:
        if self._api_server:
            validate(loaded.entries)
            if wrong := list(_left_out(loaded)):
                raise combined(wrong)
            return [each.object for each in loaded.entries]
        known = await self.all(Service) if any(isinstance(each.object, Service) for each in loaded.entries) else ()
        return [each.object for each in admit(loaded.entries, known, ServiceNetworks(tuple(service_cidrs), ()))]


def _left_out(loaded: LoadedManifests) -> Iterator[BadManifest]:
    """An API server must not get a part of an object."""
    for each in loaded.entries:
        for path in unread_fields(type(each.object), loaded.written.value(each.source)):
            where = f"{each.source.file}:{loaded.written.line(each.source, path)}"
            what = f"{format_field_path(path)}: not a field that Percale keeps"
            yield BadManifest(what, where=where, hint="use kubectl apply")


class StoreReader:
    """The objects of some kinds, as they are and as they become. For one command."""

    def __init__(self, store: Store, kinds: Kinds, scope: Scope, *, wide: bool, note: Callable[[str], None]) -> None:
        """`note` is told what cannot be read."""
        self._store = store
        self._kinds = kinds
        self._scope = scope
        self._wide = wide
        self._note = note
        self._cache = ObjectCache()
        self._events: AsyncIterator[Event] | None = None
        self._revision = 0
        types = [kind for kind, _ in kinds]
        self._read_kinds = [*types, *((SubnetLease,) if wide and Node in types else ())]

    async def get(self) -> dict[str, Any]:
        """As the lab's `get` answers. Raises StoreUnavailable, BadInput."""
        for kind in self._read_kinds:
            await self._read(kind)
        answer = self._answer()
        unknown_home = Namespace not in self._read_kinds and not self._scope.everywhere
        if unknown_home and not answer["sections"] and not answer["missing"]:
            with suppress(StoreError):  # only for a hint
                await self._read(Namespace)
            answer = self._answer()
        return answer

    async def next(self) -> dict[str, Any]:
        """The same once something has changed."""
        if self._events is None:
            self._events = self._store.watch(*self._read_kinds)
        async for event in self._events:
            if isinstance(event, ReadProblem):
                self._problem(event)
            else:
                self._cache.handle(event)
                self._revision += 1
                return self._answer()
        raise StoreUnavailable("the store has ended the watch")

    async def _read(self, kind: type[Object]) -> None:
        """By a watch: it tells what cannot be read."""
        async with aclosing(self._store.watch(kind)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, ReadProblem):
                    self._problem(event)
                elif isinstance(event, Snapshot):
                    for obj in event.objects:
                        self._cache.put(obj)
                    return

    def _problem(self, problem: ReadProblem) -> None:
        if isinstance(problem.error, StoreUnavailable):
            raise problem.error
        if problem.error is not None:
            where = "" if problem.error.where else f"{problem.source}: "
            self._note(f"{where}{problem.error}")

    def _answer(self) -> dict[str, Any]:
        found = find(self._kinds, self._scope, self._cache.all)
        leases = {each.spec.node: ",".join(map(str, each.spec.subnets)) for each in self._cache.all(SubnetLease)}
        context = ColumnContext(subnets=leases, now=datetime.now(UTC))
        return {
            "revision": self._revision,
            "sections": sections(found.objects, context, self._scope, wide=self._wide),
            "missing": found.missing,
            "nothing": found.nothing,
        }
