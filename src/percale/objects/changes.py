"""`apply` and `delete`: objects of manifests are created, changed or deleted in a cluster; each done, one line of kubectl's.

    manifests ─▶ loaded, named, admitted: all of them, before the first is written ─▶ Target: the lab's cluster, or a store

Called by the lab's verbs (`lab/api/object_verbs.py`) and by `in_store`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeVar

from msgspec.structs import replace

from percale.errors import BadManifest, NotFound
from percale.model.manifest.decode import DEFAULT_NAMESPACE, ManifestEntry
from percale.model.meta import Object, ObjectKey, ObjectMeta, timestamp
from percale.model.namespace import NAME_LABEL, Namespace
from percale.model.pod import Pod
from percale.model.validation.formats import is_object_name
from percale.model.workloads import DaemonSet, Deployment, ReplicaSet, StatefulSet
from percale.objects.kind_names import full_name
from percale.objects.selection import Found, Kinds, Scope, find, not_there

T = TypeVar("T", bound=Object)

_SCALED = (Deployment, ReplicaSet, StatefulSet)
RESTARTED = (Deployment, StatefulSet, DaemonSet)
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_PERMANENT = (DEFAULT_NAMESPACE, "kube-system")
"""Namespaces that an API server does not delete."""


class Target(Protocol):
    """The objects of a cluster."""

    async def all(self, kind: type[T]) -> Sequence[T]:
        """Those of a kind."""

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One of them."""

    async def create(self, obj: Object) -> None: ...

    async def change(self, known: Object, edit: Callable[[Object], Object]) -> bool:
        """Whether that changed anything; `edit` again if another writer was faster."""

    async def delete(self, obj: Object) -> None:
        """With all that is in it, if it is a Namespace."""


def named(found: Iterable[ManifestEntry]) -> Iterator[ManifestEntry]:
    """The same; a name that Kubernetes would refuse is an error. Raises BadManifest."""
    for each in found:
        metadata = each.object.metadata
        for field, name in (("name", metadata.name), ("namespace", metadata.namespace)):
            if name is not None and not is_object_name(name):
                hint = "use small letters, digits, '-' and '.'"
                raise BadManifest(f"metadata.{field}: {name!r} is not a name", where=str(each.source), hint=hint)
        yield each


async def apply(
    target: Target, objects: Sequence[Object], edit: Callable[[Object, Object], Object]
) -> AsyncIterator[str]:
    """Create or change them, namespaces first; `edit` makes of a known and a desired object what is written."""
    for obj in sorted(objects, key=lambda each: not isinstance(each, Namespace)):
        known = await target.get(type(obj), obj.key)
        if known is None:
            await target.create(obj)
            yield f"{full_name(obj)} created"
        else:
            changed = await target.change(known, partial(_edited, edit, obj))
            yield f"{full_name(obj)} {'configured' if changed else 'unchanged'}"


def _edited(edit: Callable[[Object, Object], Object], desired: Object, known: Object) -> Object:
    return edit(known, desired)


async def choose(target: Target, kinds: Kinds, scope: Scope) -> Found:
    """Those that have names must all exist; of a kind without names all that fit. Raises NotFound, BadInput."""
    named = [await find_one(target, kind, name, scope.namespace) for kind, names in kinds for name in names]
    rest = [(kind, names) for kind, names in kinds if not names]
    if not rest:
        return Found([named], (), "")
    listed: set[type[Object]] = {Namespace, *(kind for kind, _ in rest)}
    known = {kind: await target.all(kind) for kind in listed}
    found = find(rest, scope, known.__getitem__)
    return replace(found, objects=[named, *found.objects])


async def delete_chosen(target: Target, found: Found) -> AsyncIterator[str]:
    """Namespaces that every cluster has stay."""
    for obj in found.all:
        if isinstance(obj, Namespace) and obj.metadata.name in _PERMANENT:
            yield f"{full_name(obj)} stays: every cluster has it"
        else:
            await target.delete(obj)
            yield f"{full_name(obj)} deleted"


async def delete_written(target: Target, objects: Sequence[Object]) -> AsyncIterator[str]:
    """Delete what manifests name, the last first; a missing one is no error."""
    for obj in reversed(objects):
        known = await target.get(type(obj), obj.key)
        if known is not None:
            await target.delete(known)
        yield f"{full_name(obj)} {'not there' if known is None else 'deleted'}"


async def find_one(target: Target, kind: type[Object], name: str, namespace: str | None) -> Object:
    """Raises NotFound."""
    home = (namespace or DEFAULT_NAMESPACE) if kind.NAMESPACED else None
    found: Object | None = await target.get(kind, ObjectKey(home, name))
    if found is None:
        raise NotFound(not_there(kind, name, home, await target.all(kind)))
    return found


def missing_namespaces(objects: Sequence[Object], known: Iterable[Namespace]) -> list[Namespace]:
    """Namespaces that objects refer to but that do not exist."""
    there = {namespace.metadata.name for namespace in known}
    there |= {obj.metadata.name for obj in objects if isinstance(obj, Namespace)}
    wanted = {obj.metadata.namespace for obj in objects if obj.metadata.namespace is not None}
    return [new_namespace(name) for name in sorted(wanted - there)]


def new_namespace(name: str) -> Namespace:
    """A namespace with the label that Kubernetes sets."""
    return Namespace(metadata=ObjectMeta(name=name, labels={NAME_LABEL: name}))


def with_identity(obj: T) -> T:
    """As it is born, where no API server does that."""
    metadata = replace(obj.metadata, uid=str(uuid.uuid4()), creationTimestamp=timestamp(datetime.now(UTC)))
    return replace(obj, metadata=metadata)


def merged(known: Object, desired: Object) -> Object:
    """The applied object with the cluster's fields: identity, owner, status. A pod stays on its node, a restart stays one."""
    metadata = replace(known.metadata, labels=desired.metadata.labels, annotations=desired.metadata.annotations)
    changed = replace(desired, metadata=metadata)
    if hasattr(known, "status"):
        changed = replace(changed, status=known.status)
    if isinstance(known, RESTARTED) and isinstance(changed, RESTARTED):
        when = known.spec.template.metadata.annotations.get(_RESTARTED_AT)
        changed = changed if when is None else restarted(changed, when)
    if isinstance(known, Pod) and isinstance(changed, Pod):
        changed = replace(changed, spec=replace(changed.spec, nodeName=known.spec.nodeName))
    return changed


def merged_with_others(known: Object, desired: Object) -> Object:
    """What a manifest does not say of labels, annotations and replicas stays as others have written it."""
    changed = merged(known, desired)
    labels = {**known.metadata.labels, **desired.metadata.labels}
    annotations = {**known.metadata.annotations, **desired.metadata.annotations}
    changed = replace(changed, metadata=replace(changed.metadata, labels=labels, annotations=annotations))
    if isinstance(known, _SCALED) and isinstance(changed, _SCALED) and changed.spec.replicas is None:
        return replace(changed, spec=replace(changed.spec, replicas=known.spec.replicas))
    return changed


def restarted(obj: Object, when: str) -> Object:
    """With a template that says so, hence new pods; as kubectl does it."""
    assert isinstance(obj, RESTARTED)
    metadata = obj.spec.template.metadata
    metadata = replace(metadata, annotations={**metadata.annotations, _RESTARTED_AT: when})
    return replace(obj, spec=replace(obj.spec, template=replace(obj.spec.template, metadata=metadata)))
