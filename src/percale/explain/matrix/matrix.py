"""From pairs of ends to pairs of groups: the ports that all of one get at all of the other, and those that some do.

Called by cli/matrix.py with a `Reach` and a `Grouping`; drawn by `text.py` and `graph.py`. Pure. Left out are
a pod and itself, a pod and its own node, of which NetworkPolicies have no say, and pairs without a pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from percale.explain.matrix.groups import Grouping
from percale.explain.matrix.port_space import PortSet
from percale.explain.matrix.reachability import NO_FLOW, Reachability
from percale.explain.pod_owners import Group


class Cell(NamedTuple):
    """Ports that every pair gets, and ports that at least one pair gets."""

    every: PortSet
    some: PortSet

    @property
    def partly(self) -> bool:
        return self.every != self.some


_PARTLY = NO_FLOW - 1


class Edge(NamedTuple):
    """From a group to a group."""

    source: Group
    destination: Group
    cell: Cell


class Matrix:
    """Groups × groups. Groups whose pods are of the same kinds share a row."""

    def __init__(self, reach: Reachability, grouping: Grouping, asked: PortSet) -> None:
        """Of the `asked` ports alone."""
        self.groups = grouping.groups
        self.space = reach.space
        self.asked = asked
        members: list[Counter[int]] = [Counter() for _ in self.groups]
        """The kinds of each group's ends, and how many of each there are."""
        for group, kind in zip(grouping.of, reach.kinds.tolist(), strict=True):
            members[group][kind] += 1
        self.sizes = [each.total() for each in members]
        self._reach = reach
        self._kinds = [np.array(sorted(each), np.intp) for each in members]
        self._first = np.array([kinds[0] for kinds in self._kinds], np.intp)
        self._several = {index for index, kinds in enumerate(self._kinds) if len(kinds) > 1}
        self._mixed: list[Cell] = []
        self._merges: dict[frozenset[int], int] = {}
        distinct = {kinds.tobytes(): kinds for kinds in self._kinds}
        place = dict(zip(distinct, range(len(distinct)), strict=True))
        self._row_of = [place[kinds.tobytes()] for kinds in self._kinds]
        self._rows: npt.NDArray[np.signedinteger[Any]] = np.empty((len(distinct), len(self.groups)), np.int16)
        """From 0: all pairs have this port set of `Reach`. _PARTLY and below: that cell of `_mixed`."""
        for row, kinds in enumerate(distinct.values()):
            self._fill(row, kinds)
        self._own = [self._within(kinds, count) for kinds, count in zip(self._kinds, members, strict=True)]

    def cell(self, source: int, destination: int) -> Cell | None:
        """None: no flow, or none in which a policy has a say."""
        if not (self._has_pods(source) or self._has_pods(destination)):
            return None
        content = self._own[source] if source == destination else int(self._rows[self._row_of[source], destination])
        if content == NO_FLOW:
            return None
        if content <= _PARTLY:
            every, some = self._mixed[_PARTLY - content]
        else:
            every = some = self._reach.sets[content]
        return Cell(every & self.asked, some & self.asked)

    def edges(self) -> Iterator[Edge]:
        """All cells, in the groups' order, the empty ones too."""
        for source, row in enumerate(self.groups):
            for destination, column in enumerate(self.groups):
                cell = self.cell(source, destination)
                if cell is not None:
                    yield Edge(row, column, cell)

    def _has_pods(self, group: int) -> bool:
        return self.groups[group].sort in ("workload", "namespace")

    def _fill(self, row: int, kinds: npt.NDArray[np.intp]) -> None:
        """What a source of these kinds gets at each group: of one kind at one kind as it is, else merged."""
        rows = np.stack([self._reach.row(kind) for kind in kinds.tolist()])
        firsts = rows[0].take(self._first)
        several = self._several
        if len(kinds) > 1:
            several = several.union(np.flatnonzero((rows[:, self._first] != firsts).any(axis=0)).tolist())
        for group in several:
            counts = np.bincount(rows[:, self._kinds[group]].ravel() - NO_FLOW)
            firsts[group] = self._merged(frozenset((counts.nonzero()[0] + NO_FLOW).tolist()))
        if len(self._reach.sets) + len(self._mixed) > np.iinfo(np.int16).max and self._rows.dtype == np.int16:
            self._rows = self._rows.astype(np.int32)
        self._rows[row] = firsts

    def _within(self, kinds: npt.NDArray[np.intp], count: Counter[int]) -> int:
        """Between the ends of one group; the only one of its kind meets none of that kind."""
        if count.total() == 1:
            return NO_FLOW
        found: set[int] = set()
        for place, kind in enumerate(kinds.tolist()):
            row = self._reach.row(kind)[kinds].tolist()
            found.update(each for index, each in enumerate(row) if index != place or count[kind] > 1)
        return self._merged(frozenset(found))

    def _merged(self, contents: frozenset[int]) -> int:
        known = self._merges.get(contents)
        if known is None:
            known = self._merges[contents] = self._merge(contents - {NO_FLOW})
        return known

    def _merge(self, found: frozenset[int]) -> int:
        if len(found) <= 1:
            return next(iter(found), NO_FLOW)
        every, some = self.space.all, 0
        for each in found:
            every &= self._reach.sets[each]
            some |= self._reach.sets[each]
        self._mixed.append(Cell(every, some))
        return _PARTLY - len(self._mixed) + 1
