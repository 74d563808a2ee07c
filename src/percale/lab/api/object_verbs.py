"""Verbs of the lab's API that change objects: `apply`, `delete`, `scale`, `label`. Served by `server`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.controllers.admission import admit
from percale.controllers.workloads import Create, Delete
from percale.errors import LabError, NotFound
from percale.lab.api.kind_names import full_name, kind_of
from percale.lab.api.read_verbs import not_there
from percale.lab.api.server import Answer, Verb
from percale.lab.cluster import Cluster
from percale.lab.spec.input import other_networks, read_objects
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.strictness import Validation
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import NAME_LABEL, Namespace
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.validation.shared import check_labels
from percale.model.workloads import Count

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
        }

    async def apply(self, documents: Sequence[tuple[str, str]], namespace: str | None, validate: Validation) -> Answer:
        """Create or change the documents' objects; all are validated first."""
        found, skipped = read_objects(documents, namespace or DEFAULT_NAMESPACE, validate)
        settings = self.cluster.machines.settings
        complete = admit(found, self.cluster.cache.all(Service), settings.services)
        objects = [each.object for each in complete]
        without_effect = other_networks(objects, settings.network, settings.wiring)
        missing = missing_namespaces(objects, self.cluster.cache.all(Namespace))
        lines = [f"{full_name(obj)} {await self._apply(obj)}" for obj in (*missing, *objects)]
        return {"lines": lines + skipped + without_effect}

    async def _apply(self, obj: Object) -> str:
        known = self.cluster.cache.get(type(obj), obj.key)
        if known is None:
            await self.cluster.write(Create(obj))
            return "created"
        if _merged(known, obj) == known:
            return "unchanged"
        await self.cluster.change(known, lambda current: _merged(current, obj))
        return "configured"

    async def delete(self, targets: Sequence[tuple[str, str]], namespace: str | None) -> Answer:
        """Delete by kind and name; all must exist."""
        found = [self._find(kind, name, namespace) for kind, name in targets]
        return {"lines": [await self._delete(obj) for obj in found]}

    async def delete_documents(self, documents: Sequence[tuple[str, str]], namespace: str | None) -> Answer:
        """Delete the documents' objects; a missing one is no error."""
        lines = []
        found, _ = read_objects(documents, namespace or DEFAULT_NAMESPACE, "ignore")
        for obj in (each.object for each in reversed(found)):
            known = self.cluster.cache.get(type(obj), obj.key)
            lines.append(f"{full_name(obj)} not there" if known is None else await self._delete(known))
        return {"lines": lines}

    async def _delete(self, obj: Object) -> str:
        """Deletes a namespace's objects with it, and removes a node's machine."""
        if isinstance(obj, Node) and self.cluster.machines.node(obj.metadata.name) is not None:
            await self.cluster.remove_node(obj.metadata.name)
        else:
            await self.cluster.write(Delete(obj))
        if isinstance(obj, Namespace):
            for inside in self.cluster.cache.all_kinds():
                if inside.metadata.namespace == obj.metadata.name:
                    await self.cluster.write(Delete(inside))
        return f"{full_name(obj)} deleted"

    async def scale(self, targets: Sequence[tuple[str, str]], replicas: Count, namespace: str | None) -> Answer:
        """Set the number of pods of workloads."""
        found = [self._find(kind, name, namespace) for kind, name in targets]
        for obj in found:
            if obj.KIND not in _SCALED:
                raise LabError(f"a {obj.KIND.lower()} has no replicas", hint="scale a deployment or statefulset")
        for obj in found:
            key = "parallelism" if obj.KIND == "Job" else "replicas"
            await self.cluster.change(obj, partial(_scaled, key=key, replicas=replicas))
        return {"lines": [f"{full_name(obj)} scaled to {replicas}" for obj in found]}

    async def label(
        self, targets: Sequence[tuple[str, str]], put: Mapping[str, str], drop: Sequence[str], namespace: str | None
    ) -> Answer:
        """Set and remove labels. Raises LabError for labels that an API server would refuse."""
        for error in check_labels(put, ("metadata", "labels")):
            raise LabError(str(error))
        found = [self._find(kind, name, namespace) for kind, name in targets]
        lines = []
        for obj in found:
            edit = partial(_labeled, put=put, drop=drop)
            lines.append(f"{full_name(obj)} {'unchanged' if edit(obj) == obj else 'labeled'}")
            await self.cluster.change(obj, edit)
        return {"lines": lines}

    def _find(self, kind: str, name: str, namespace: str | None) -> Object:
        wanted = kind_of(kind)
        home = (namespace or DEFAULT_NAMESPACE) if wanted.NAMESPACED else None
        found: Object | None = self.cluster.cache.get(wanted, ObjectKey(home, name))
        if found is None:
            raise NotFound(not_there(wanted, name, home, self.cluster.cache.all(wanted)))
        return found


def missing_namespaces(objects: Sequence[Object], known: Sequence[Namespace]) -> list[Namespace]:
    """Namespaces that objects refer to but that do not exist: a lab creates them, where a cluster would refuse."""
    there = {namespace.metadata.name for namespace in known}
    there |= {obj.metadata.name for obj in objects if isinstance(obj, Namespace)}
    wanted = {obj.metadata.namespace for obj in objects if obj.metadata.namespace is not None}
    return [new_namespace(name) for name in sorted(wanted - there)]


def new_namespace(name: str) -> Namespace:
    """A namespace with the label that Kubernetes sets."""
    return Namespace(metadata=ObjectMeta(name=name, labels={NAME_LABEL: name}))


def _scaled(obj: Object, key: str, replicas: int) -> Object:
    spec: msgspec.Struct = getattr(obj, "spec")  # noqa: B009 -- one of `_SCALED` has it
    return replace(obj, spec=replace(spec, **{key: replicas}))


def _labeled(obj: Object, put: Mapping[str, str], drop: Sequence[str]) -> Object:
    labels = {key: value for key, value in {**obj.metadata.labels, **put}.items() if key not in drop}
    return replace(obj, metadata=replace(obj.metadata, labels=labels))


def _merged(known: Object, desired: Object) -> Object:
    """The applied object with the cluster's fields: identity, owner, status. A pod stays on its node."""
    metadata = replace(
        known.metadata,
        labels=desired.metadata.labels,
        annotations=desired.metadata.annotations,
    )
    changed = replace(desired, metadata=metadata)
    if hasattr(known, "status"):
        changed = replace(changed, status=known.status)
    if isinstance(known, Pod) and isinstance(changed, Pod):
        changed = replace(changed, spec=replace(changed.spec, nodeName=known.spec.nodeName))
    return changed
