"""A limit that the members of a group share, as objects of a namespace do: the cheapest first, what exceeds it is left out.

`policy/cost.py` and `service/cost.py` keep one each, so that many objects of an author cost others no more than a few.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Set
from typing import Generic, TypeVar

G = TypeVar("G", bound=Hashable)
M = TypeVar("M", bound=Hashable)


class SharedLimit(Generic[G, M]):
    """Members are ordered by cost, then by themselves. A change costs more than O(1) only where a group is above its limit."""

    def __init__(self, limit: int) -> None:
        """Of each group."""
        self._limit = limit
        self._costs: defaultdict[G, dict[M, int]] = defaultdict(dict)
        self._totals: Counter[G] = Counter()
        self._left_out: dict[G, frozenset[M]] = {}

    def left_out(self, group: G) -> Set[M]:
        """The members that exceed the limit."""
        return self._left_out.get(group, frozenset())

    def set(self, group: G, member: M, cost: int) -> Set[M]:
        """A member costs this now, 0: it is gone. Returns members that are left out now and were not, or the other way round."""
        costs = self._costs[group]
        self._totals[group] += cost - costs.pop(member, 0)
        if cost:
            costs[member] = cost
        if not costs:
            del self._costs[group], self._totals[group]
        before = self.left_out(group)
        if self._totals[group] > self._limit:
            self._left_out[group] = self._exceeding(costs)
        else:
            self._left_out.pop(group, None)
        return before ^ self.left_out(group)

    def _exceeding(self, costs: dict[M, int]) -> frozenset[M]:
        total, found = 0, set()
        for cost, member in sorted((cost, member) for member, cost in costs.items()):
            total += cost
            if total > self._limit:
                found.add(member)
        return frozenset(found)
