"""Pods by the workload that makes them. Called by `end_names.py` and the matrix; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.meta import Object, ObjectKey, OwnerReference
from percale.model.pod import Pod
from percale.model.workloads import Job, ReplicaSet

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
    """By controlling owner; a ReplicaSet of a Deployment is the Deployment, a Job of a CronJob the CronJob."""
    everything = list(objects)
    between = {(each.KIND, each.key): each for each in everything if isinstance(each, ReplicaSet | Job)}
    return {each.key: _workload(each, between) for each in everything if isinstance(each, Pod)}


def _workload(pod: Pod, between: Mapping[tuple[str, ObjectKey], Object]) -> Group:
    name, kind, namespace = pod.metadata.name, Pod.KIND, pod.metadata.namespace or "default"
    owner = _controller(pod)
    if owner is not None:
        name, kind = owner.name, owner.kind
        known = between.get((kind, ObjectKey(namespace, name)))
        above = _controller(known) if known is not None else None
        hashed = f"-{pod.metadata.labels.get(_HASH_LABEL, '')}"
        if above is not None:
            name, kind = above.name, above.kind
        elif known is None and kind == ReplicaSet.KIND and name.endswith(hashed):
            name, kind = owner.name.removesuffix(hashed), "Deployment"
    return Group("workload", name, namespace, kind)


def _controller(obj: Object) -> OwnerReference | None:
    return next((each for each in obj.metadata.ownerReferences if each.controller), None)
