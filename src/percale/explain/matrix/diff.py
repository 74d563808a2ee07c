"""What a change of the cluster opens and closes: flows that are allowed before and not after, or the other way round.

Called by cli/matrix.py --diff with both worlds. Pods are the same by name; those of a workload whose names changed (a new
template) are paired in their order. Flows of pods in only one world are not changes: they cannot have been used. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct

from percale.explain.matrix.groups import Grouping
from percale.explain.matrix.port_space import Piece, PortSet
from percale.explain.matrix.reachability import NO_FLOW, Reachability, always
from percale.explain.pod_owners import Group
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Decision, Flow, FlowEnd


class WorldSide(Struct, frozen=True):
    """One of the two worlds."""

    evaluator: Evaluator
    reach: Reachability
    grouping: Grouping

    def group(self, end: int) -> Group:
        """By the end's place."""
        return self.grouping.groups[self.grouping.of[end]]


class FlowChange(Struct, frozen=True):
    """From a group to a group, for all of their pairs or some of them; decided by these before and after."""

    source: Group
    destination: Group
    ports: PortSet
    opens: bool
    before: Decision
    after: Decision
    example: tuple[FlowEnd, FlowEnd]
    """One such pair, as it is before."""
    partly: bool


_NOT_BEFORE = -2
"""For a set of ports that no flow had before."""

_ASKED = 20
"""Of very many pairs between two groups, so many are asked for the rules that decide; for each port and way of flipping."""


class _Change(NamedTuple):
    """The ports that two kinds lose and get."""

    closes: PortSet
    opens: PortSet

    @property
    def ports(self) -> PortSet:
        return self.closes | self.opens

    def to(self, *, opens: bool) -> PortSet:
        """One of the two."""
        return self.opens if opens else self.closes


_NOTHING = _Change(0, 0)

_Kind: TypeAlias = tuple[int, int]
"""Before and after; so are the ends of a pair."""
_End: TypeAlias = tuple[int, int]
_Pair: TypeAlias = tuple[_End, _End]


def flow_changes(before: WorldSide, after: WorldSide, asked: PortSet) -> Iterator[FlowChange]:
    """By source and destination group; one for each pair of rules that decide. Both sides have the same space of ports."""
    return _Comparison(before, after, asked).flow_changes()


class _Comparison:
    """The ends that are in both worlds, by group and kind."""

    def __init__(self, before: WorldSide, after: WorldSide, asked: PortSet) -> None:
        self._before, self._after, self._asked = before, after, asked
        self._members: dict[Group, dict[_Kind, list[tuple[int, int]]]] = {}
        for old, new in _paired(before, after):
            kind = (int(before.reach.kinds[old]), int(after.reach.kinds[new]))
            self._members.setdefault(before.group(old), {}).setdefault(kind, []).append((old, new))
        self._changed = dict(self._differences())
        self._own_nodes: defaultdict[tuple[Group, Group], list[tuple[_Change, _Pair]]] = defaultdict(list)
        """Pods and their own nodes: an example of each pair of kinds, and what changes."""
        if any(_denies_nodes(side.evaluator) for side in (before, after)):
            self._compare_own_nodes()

    def flow_changes(self) -> Iterator[FlowChange]:
        """In the groups' order."""
        groups_of: defaultdict[_Kind, list[int]] = defaultdict(list)
        groups = self._before.grouping.groups
        for index, group in enumerate(groups):
            for kind in self._members.get(group, ()):
                groups_of[kind].append(index)
        touched = {
            (source, destination): None
            for source_kind, destination_kind in self._changed
            for source in groups_of[source_kind]
            for destination in groups_of[destination_kind]
        }
        places = {group: index for index, group in enumerate(groups)}
        for (source_group, destination_group), found in self._own_nodes.items():
            if any(change != _NOTHING for change, _ in found):
                touched[places[source_group], places[destination_group]] = None
        for source, destination in sorted(touched):
            yield from self._between(groups[source], groups[destination])

    def _differences(self) -> Iterator[tuple[tuple[_Kind, _Kind], _Change]]:
        """Pairs of kinds whose ports are not as they were."""
        kinds = list(dict.fromkeys(kind for found in self._members.values() for kind in found))
        columns = np.array(kinds, np.intp).reshape(-1, 2)
        before, after = self._before.reach, self._after.reach
        same = np.empty(0, np.int64)
        for source in kinds:
            old = before.row(source[0]).take(columns[:, 0])
            new = after.row(source[1]).take(columns[:, 1])
            if len(same) < len(after.sets):
                places = {ports: place for place, ports in enumerate(before.sets)}
                same = np.array([places.get(ports, _NOT_BEFORE) for ports in after.sets])
            for place in np.flatnonzero((same.take(new) != old) & (new != NO_FLOW)).tolist():
                was, will_be = before.sets[int(old[place])] & self._asked, after.sets[int(new[place])] & self._asked
                if was != will_be:
                    yield (source, kinds[place]), _Change(was & ~will_be, will_be & ~was)

    def _compare_own_nodes(self) -> None:
        ends = self._before.reach.ends, self._after.reach.ends
        nodes: defaultdict[str, list[tuple[Group, _Kind, _End]]] = defaultdict(list)
        for group, kind, end in self._all_members():
            name = ends[0][end[0]].node
            if name is not None and name == ends[1][end[1]].node:
                nodes[name].append((group, kind, end))
        seen: set[tuple[Group, _Kind, Group, _Kind]] = set()
        for group, kind, end in self._all_members():
            old, new = ends[0][end[0]], ends[1][end[1]]
            if old.pod is None or new.pod is None or old.pod.node is None or old.pod.node != new.pod.node:
                continue
            for node_group, node_kind, node_end in nodes[old.pod.node]:
                key = group, kind, node_group, node_kind
                if key not in seen and len(old.address) == len(ends[0][node_end[0]].address):
                    seen.add(key)
                    was = self._before.reach.to_own_node(kind[0], node_kind[0]) & self._asked
                    will_be = self._after.reach.to_own_node(kind[1], node_kind[1]) & self._asked
                    change = _Change(was & ~will_be, will_be & ~was)
                    self._own_nodes[group, node_group].append((change, (end, node_end)))

    def _all_members(self) -> Iterator[tuple[Group, _Kind, _End]]:
        for group, by_kind in self._members.items():
            for kind, ends in by_kind.items():
                yield from ((group, kind, end) for end in ends)

    def _between(self, source: Group, destination: Group) -> Iterator[FlowChange]:
        """The flips of one pair of groups, those with the same decisions as one."""
        found: dict[tuple[Decision, Decision], PortSet] = {}
        examples: dict[tuple[Decision, Decision], tuple[FlowEnd, FlowEnd]] = {}
        asked: Counter[tuple[bool, PortSet]] = Counter()
        ends = self._before.reach.ends
        for change, pair in self._changes(source, destination):
            for piece, bit in self._before.reach.space.pieces_of(change.ports):
                opens = bool(change.opens & bit)
                if asked[opens, bit] < _ASKED:
                    asked[opens, bit] += 1
                    decisions = self._decisions(piece, *pair)
                    found[decisions] = found.get(decisions, 0) | bit
                    examples.setdefault(decisions, (ends[pair[0][0]], ends[pair[1][0]]))
        for (old, new), ports in found.items():
            partly = any(
                ports & ~self._changed.get(kinds, _NOTHING).to(opens=new.allowed)
                for kinds in product(self._members[source], self._members[destination])
                if self._example(source, destination, *kinds) is not None
            ) or any(ports & ~change.to(opens=new.allowed) for change, _ in self._own_nodes[source, destination])
            yield FlowChange(source, destination, ports, new.allowed, old, new, examples[old, new], partly)

    def _changes(self, source: Group, destination: Group) -> Iterator[tuple[_Change, _Pair]]:
        """What changes between kinds of these groups, with an example of each."""
        for kinds in product(self._members[source], self._members[destination]):
            pair = self._example(source, destination, *kinds) if kinds in self._changed else None
            if pair is not None:
                yield self._changed[kinds], pair
        yield from self._own_nodes[source, destination]

    def _example(self, source: Group, destination: Group, source_kind: _Kind, destination_kind: _Kind) -> _Pair | None:
        """Two ends of these kinds between which a flow is a matter of policy."""
        for one, other in product(self._members[source][source_kind], self._members[destination][destination_kind]):
            if all(
                _matters(side.reach.ends[one[index]], side.reach.ends[other[index]])
                for index, side in enumerate((self._before, self._after))
            ):
                return one, other
        return None

    def _decisions(self, piece: Piece, source: _End, destination: _End) -> tuple[Decision, Decision]:
        """Before and after, for a port of this piece."""
        old, new = (
            side.evaluator.evaluate(
                Flow(
                    side.reach.ends[source[index]],
                    side.reach.ends[destination[index]],
                    piece.protocol,
                    piece.first,
                )
            )
            for index, side in enumerate((self._before, self._after))
        )
        return old.decisive, new.decisive


def _denies_nodes(evaluator: Evaluator) -> bool:
    """Whether a cluster policy may deny pods their own node."""
    rules = (rule for policy in evaluator.policies.values() if policy.tier != "NetworkPolicy" for rule in policy.egress)
    return any(rule.denies_nodes for rule in rules)


def _matters(source: FlowEnd, destination: FlowEnd) -> bool:
    """A flow between them is a matter of NetworkPolicies, too."""
    return (
        len(source.address) == len(destination.address)
        and (source.pod is not None or destination.pod is not None)
        and not always(source, destination)
    )


def _paired(before: WorldSide, after: WorldSide) -> Iterator[tuple[int, int]]:
    """The places of an end in both worlds: by name, and the pods that are left by their order in the workload."""
    same: dict[object, int] = {name: index for index, name in enumerate(_names(before.reach.ends))}
    renamed: defaultdict[object, list[int]] = defaultdict(list)
    pairs: list[tuple[int, int]] = []
    for index, name in enumerate(_names(after.reach.ends)):
        old = same.pop(name, None)
        if old is not None:
            pairs.append((old, index))
        elif after.reach.ends[index].pod is not None:
            renamed[after.group(index), len(after.reach.ends[index].address)].append(index)
    for old in same.values():
        there = renamed[before.group(old), len(before.reach.ends[old].address)]
        if there and before.reach.ends[old].pod is not None:
            pairs.append((old, there.pop(0)))
    return iter(sorted(pairs))


def _names(ends: Sequence[FlowEnd]) -> Iterator[object]:
    """Addresses may change, and outside they are the same anyway."""
    for end in ends:
        if end.pod is not None:
            yield end.pod.key, len(end.address)
        else:
            yield end.node, end.address
