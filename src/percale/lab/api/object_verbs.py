"""Verbs of the lab's API that change objects: `apply`, `delete`, `scale`, `label`, `restart`. Served by `server`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.errors import LabError
from percale.lab.api.server import Answer, Verb
from percale.lab.cluster import Cluster
from percale.lab.spec.input import other_networks, read_objects, without_foreign_nodes, without_owner, without_pools
from percale.model.kinds import KINDS
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.strictness import Validation
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.node import Node
from percale.model.validation.shared import check_labels
from percale.model.workloads import Count
from percale.objects import changes
from percale.objects.changes import missing_namespaces
from percale.objects.kind_names import full_name
from percale.objects.selection import Found, Scope, Wanted, wanted_kinds

T = TypeVar("T", bound=Object)

_SCALED = ("Deployment", "ReplicaSet", "StatefulSet", "Job")


class ObjectVerbs(Struct, frozen=True):
    """Each method is a verb; its arguments are the request's fields."""

    cluster: Cluster

    def all(self) -> Mapping[str, Verb]:
        """By the names that requests use."""
        return {
            "apply": self.apply,
            "delete": self.delete,
            "delete_documents": self.delete_documents,
            "scale": self.scale,
            "label": self.label,
            "restart": self.restart,
        }

    async def apply(self, documents: Sequence[tuple[str, str]], namespace: str | None, validate: Validation) -> Answer:
        """Create or change the documents' objects; all are validated first."""
        settings, lab_dir = self.cluster.machines.settings, self.cluster.machines.lab_dir
        api_server = not self.cluster.control.computes_status
        home = namespace or DEFAULT_NAMESPACE
        found, skipped = read_objects(documents, home, lab_dir, validate, api_server=api_server)
        found, foreign = without_foreign_nodes(found, self.cluster.machines.nodes)
        complete = self.cluster.control.admit(found)
        objects = [each.object for each in complete]
        without_effect = other_networks(complete, settings.network, settings.wiring)
        without_effect += [*without_owner(complete, self._is_there), *without_pools(complete)]
        missing = missing_namespaces(objects, self.cluster.cache.all(Namespace))
        merge = self.cluster.control.merge
        lines = [line async for line in changes.apply(self._target, [*missing, *objects], merge)]
        return {"lines": lines + skipped + foreign + without_effect}

    def _is_there(self, kind: str, key: ObjectKey) -> bool:
        owner = KINDS.get(kind)
        return owner is not None and self.cluster.cache.get(owner, key) is not None

    async def delete(
        self, *, wanted: Sequence[Wanted], namespace: str | None, everywhere: bool, selector: str
    ) -> Answer:
        """Delete by name, which must all exist, or all of a kind that fit."""
        found = await self._choose(wanted, Scope(namespace, everywhere, selector))
        lines = [line async for line in changes.delete_chosen(self._target, found)]
        return {"lines": lines, "nothing": found.nothing}

    async def delete_documents(self, documents: Sequence[tuple[str, str]], namespace: str | None) -> Answer:
        """Delete the documents' objects; a missing one is no error."""
        lab_dir = self.cluster.machines.lab_dir
        found, _ = read_objects(documents, namespace or DEFAULT_NAMESPACE, lab_dir, "ignore")
        objects = [each.object for each in found]
        return {"lines": [line async for line in changes.delete_written(self._target, objects)]}

    async def scale(
        self,
        *,
        wanted: Sequence[Wanted],
        namespace: str | None,
        everywhere: bool,
        selector: str,
        replicas: Count,
    ) -> Answer:
        """Set the number of pods of workloads."""
        found = await self._choose(wanted, Scope(namespace, everywhere, selector))
        for obj in found.all:
            if obj.KIND not in _SCALED:
                raise LabError(f"a {obj.KIND.lower()} has no replicas", hint="scale a deployment or statefulset")
        for obj in found.all:
            key = "parallelism" if obj.KIND == "Job" else "replicas"
            await self.cluster.control.change(obj, partial(_scaled, key=key, replicas=replicas))
        return {"lines": [f"{full_name(obj)} scaled to {replicas}" for obj in found.all], "nothing": found.nothing}

    async def restart(
        self, *, wanted: Sequence[Wanted], namespace: str | None, everywhere: bool, selector: str
    ) -> Answer:
        """New pods for workloads."""
        found = await self._choose(wanted, Scope(namespace, everywhere, selector))
        for obj in found.all:
            if not isinstance(obj, changes.RESTARTED):
                hint = "name a deployment, statefulset or daemonset"
                raise LabError(f"a {obj.KIND.lower()} cannot be restarted", hint=hint)
        when = datetime.now(UTC).isoformat()
        for obj in found.all:
            await self.cluster.control.change(obj, partial(changes.restarted, when=when))
        return {"lines": [f"{full_name(obj)} restarted" for obj in found.all], "nothing": found.nothing}

    async def label(
        self,
        *,
        wanted: Sequence[Wanted],
        namespace: str | None,
        everywhere: bool,
        selector: str,
        put: Mapping[str, str],
        drop: Sequence[str],
    ) -> Answer:
        """Set and remove labels. Raises LabError for labels that an API server would refuse."""
        for error in check_labels(put, ("metadata", "labels")):
            raise LabError(str(error))
        found = await self._choose(wanted, Scope(namespace, everywhere, selector))
        lines = []
        for obj in found.all:
            edit = partial(_labeled, put=put, drop=drop)
            lines.append(f"{full_name(obj)} {'unchanged' if edit(obj) == obj else 'labeled'}")
            await self.cluster.control.change(obj, edit)
        return {"lines": lines, "nothing": found.nothing}

    async def _choose(self, wanted: Sequence[Wanted], scope: Scope) -> Found:
        return await changes.choose(self._target, wanted_kinds(wanted), scope)

    @property
    def _target(self) -> _LabObjects:
        return _LabObjects(self.cluster)


class _LabObjects(Struct, frozen=True):
    """The lab's cluster as what `apply` and `delete` change."""

    cluster: Cluster

    async def all(self, kind: type[T]) -> Sequence[T]:
        return self.cluster.cache.all(kind)

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        return self.cluster.cache.get(kind, key)

    async def create(self, obj: Object) -> None:
        await self.cluster.control.create(obj)

    async def change(self, known: Object, edit: Callable[[Object], Object]) -> bool:
        return await self.cluster.control.change(known, edit)

    async def delete(self, obj: Object) -> None:
        """Removes a node's machine with it."""
        if isinstance(obj, Node) and self.cluster.machines.node(obj.metadata.name) is not None:
            await self.cluster.remove_node(obj.metadata.name)
        else:
            await self.cluster.control.delete(obj)


def _scaled(obj: Object, key: str, replicas: int) -> Object:
    spec: msgspec.Struct = getattr(obj, "spec")  # noqa: B009 -- one of `_SCALED` has it
    return replace(obj, spec=replace(spec, **{key: replicas}))


def _labeled(obj: Object, put: Mapping[str, str], drop: Sequence[str]) -> Object:
    labels = {key: value for key, value in {**obj.metadata.labels, **put}.items() if key not in drop}
    return replace(obj, metadata=replace(obj.metadata, labels=labels))
