"""Whom people think of instead of pods: workloads, namespaces, the nodes, addresses outside. Called by cli/matrix.py; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.explain.matrix.reachability import Reach
from percale.explain.parties import Outside, blocks_of
from percale.model.meta import Object, ObjectKey, OwnerReference
from percale.model.pod import Pod
from percale.model.workloads import ReplicaSet
from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import Block

Sort: TypeAlias = Literal["workload", "namespace", "nodes", "outside"]

_HASH_LABEL = "pod-template-hash"
_MOST_OUTSIDE = 8
"""Groups of addresses outside; more are one."""


class Group(Struct, frozen=True):
    """`kind` is the workload's (`Pod` for one by itself)."""

    sort: Sort
    name: str
    namespace: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


NODES = Group("nodes", "nodes")
EXTERNAL = Group("outside", "external")

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


class Grouping(Struct, frozen=True):
    """The groups in the order in which they are shown, and each party's."""

    groups: tuple[Group, ...]
    of: tuple[int, ...]

    def folded(self) -> Grouping:
        """Workloads as their namespaces."""
        return _grouping([_folded(self.groups[each]) for each in self.of])


def by_workload(reach: Reach, owners: Owners, outside: Sequence[Group], *, detailed: Collection[str] = ()) -> Grouping:
    """Workloads of the `detailed` namespaces and the others folded into their namespaces; none is detailed: all are."""
    found = []
    for party in reach.parties[: len(reach.parties) - len(outside)]:
        if party.pod is None:
            found.append(NODES)
        else:
            workload = owners[party.pod.key]
            found.append(workload if not detailed or party.pod.namespace in detailed else _folded(workload))
    return _grouping([*found, *outside])


def _folded(group: Group) -> Group:
    return Group("namespace", "*", group.namespace) if group.sort == "workload" else group


def _grouping(found: Sequence[Group]) -> Grouping:
    order = sorted(set(found), key=_rank)
    place = {group: index for index, group in enumerate(order)}
    return Grouping(tuple(order), tuple(place[group] for group in found))


def _rank(group: Group) -> tuple[int, str, str, str]:
    sorts = {"workload": 0, "namespace": 0, "nodes": 1, "outside": 2 if group != EXTERNAL else 3}
    return (sorts[group.sort], group.namespace or "", group.name, group.kind or "")


def outside_groups(ranges: Sequence[Outside], evaluators: Sequence[Evaluator], reaches: Sequence[Reach]) -> list[Group]:
    """The group of each range. Ranges that no world distinguishes are one, named as in a rule; the widest is `external`."""
    columns = [reach.kinds[len(reach.parties) - len(ranges) :].tolist() for reach in reaches]
    kinds: list[tuple[int, ...]] = list(zip(*columns, strict=True))
    alike: dict[tuple[int, ...], list[Outside]] = {}
    for each, kind in zip(ranges, kinds, strict=True):
        alike.setdefault(kind, []).append(each)
    if len(alike) > _MOST_OUTSIDE:
        return [EXTERNAL] * len(ranges)
    blocks = sorted({block for each in evaluators for block in blocks_of(each)}, key=str)
    names = {frozenset(each for each in ranges if each.sample in block): _called(block) for block in blocks}
    widest: dict[int, tuple[int, ...]] = {}
    for kind in sorted(alike, key=lambda kind: sum(each.size for each in alike[kind])):
        widest[len(alike[kind][0].sample)] = kind
    group_of = {
        kind: Group("outside", names.get(frozenset(there)) or _listed(there))
        if kind not in widest.values()
        else EXTERNAL
        for kind, there in alike.items()
    }
    return [group_of[kind] for kind in kinds]


def _called(block: Block) -> str:
    return f"{block.cidr} except {', '.join(block.exceptions)}" if block.exceptions else block.cidr


def _listed(ranges: Sequence[Outside]) -> str:
    shown = ", ".join(map(str, ranges[:2]))
    return f"{shown}, …" if len(ranges) > 2 else shown
