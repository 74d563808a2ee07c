"""Pods by the workload that makes them. Called by `end_names.py` and the matrix; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.meta import Object, ObjectKey, OwnerReference
from percale.model.pod import Pod
from percale.model.workloads import ReplicaSet

Sort: TypeAlias = Literal["workload", "namespace", "nodes", "outside"]

_HASH_LABEL = "pod-template-hash"


class Group(Struct, frozen=True):
    """`kind` is the workload's (`Pod` for one by itself)."""

    sort: Sort
    name: str
    namespace: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


Owners: TypeAlias = Mapping[ObjectKey, Group]
"""The workload of each pod."""


def owners(objects: Iterable[Object]) -> Owners:
    """By controlling owner; a ReplicaSet of a Deployment is the Deployment."""
    everything = list(objects)
    sets = {each.key: each for each in everything if isinstance(each, ReplicaSet)}
    return {each.key: _workload(each, sets) for each in everything if isinstance(each, Pod)}


def _workload(pod: Pod, sets: Mapping[ObjectKey, ReplicaSet]) -> Group:
    name, kind, namespace = pod.metadata.name, Pod.KIND, pod.metadata.namespace or "default"
    owner = _controller(pod)
    if owner is not None:
        name, kind = owner.name, owner.kind
    if owner is not None and owner.kind == ReplicaSet.KIND:
        replica_set = sets.get(ObjectKey(namespace, owner.name))
        above = _controller(replica_set) if replica_set is not None else None
        hashed = f"-{pod.metadata.labels.get(_HASH_LABEL, '')}"
        if above is not None:
            name, kind = above.name, above.kind
        elif replica_set is None and owner.name.endswith(hashed):
            name, kind = owner.name.removesuffix(hashed), "Deployment"
    return Group("workload", name, namespace, kind)


def _controller(obj: Object) -> OwnerReference | None:
    return next((each for each in obj.metadata.ownerReferences if each.controller), None)
