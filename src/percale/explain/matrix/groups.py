"""Whom people think of instead of pods: workloads, namespaces, the nodes, addresses outside. Called by cli/matrix.py; pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from percale.explain.flow_ends import Outside, blocks_of
from percale.explain.matrix.reachability import Reachability
from percale.explain.pod_owners import Group, Owners
from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import Block

_MOST_OUTSIDE = 8
"""Groups of addresses outside; more are one."""


NODES = Group("nodes", "nodes")
EXTERNAL = Group("outside", "external")


class Grouping(Struct, frozen=True):
    """The groups in the order in which they are shown, and each end's."""

    groups: tuple[Group, ...]
    of: tuple[int, ...]

    def folded(self) -> Grouping:
        """Workloads as their namespaces."""
        return _grouping([_folded(self.groups[each]) for each in self.of])


def by_workload(
    reach: Reachability, owners: Owners, outside: Sequence[Group], *, detailed: Collection[str] = ()
) -> Grouping:
    """Workloads of the `detailed` namespaces and the others folded into their namespaces; none is detailed: all are."""
    found = []
    for end in reach.ends[: len(reach.ends) - len(outside)]:
        if end.pod is None:
            found.append(NODES)
        else:
            workload = owners[end.pod.key]
            found.append(workload if not detailed or end.pod.namespace in detailed else _folded(workload))
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


def outside_groups(
    ranges: Sequence[Outside], evaluators: Sequence[Evaluator], reaches: Sequence[Reachability]
) -> list[Group]:
    """The group of each range. Ranges that no world distinguishes are one, named as in a rule; the widest is `external`."""
    columns = [reach.kinds[len(reach.ends) - len(ranges) :].tolist() for reach in reaches]
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
