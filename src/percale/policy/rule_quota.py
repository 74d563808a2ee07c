"""How many rules the chains of a namespace's pods may have together, on each node. `evaluator.py` asks.

Pods of one class share a chain, and each class has the rules of all its policies. So whoever may label pods multiplies the
rules of a policy: a hundred pods with a policy for each beside a large one for all of them. The rules of a namespace are limited
on each node; of what exceeds the limit the policies that take most are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from percale.policy.compiled_policy import CompiledPolicy, CompiledRule, PolicyKey
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import PortName, PortSpan

MAX_RULES = 10_000
"""Of a namespace's policies in the chains of one node. Changing all of them takes 0.1 s to render, and 0.3 s of the table's
thread.
"""


class SelectedPod(NamedTuple):
    """What a pod's chain depends on; equal ones of a node share it."""

    namespace: str
    node: str | None
    policies: frozenset[PolicyKey]
    """The NetworkPolicies that select it."""


class _Place(NamedTuple):
    namespace: str
    node: str | None


class RuleQuota:
    """Changes return the policies that are left out now and were not, or the other way round."""

    def __init__(self) -> None:
        self._rules: dict[PolicyKey, int] = {}
        self._pods: dict[int, SelectedPod] = {}
        self._classes: defaultdict[_Place, Counter[SelectedPod]] = defaultdict(Counter)
        """Pods of each class."""
        self._totals: Counter[_Place] = Counter()
        """Rules of all classes."""
        self._left_out: dict[_Place, frozenset[PolicyKey]] = {}

    @property
    def left_out(self) -> frozenset[PolicyKey]:
        """What takes too much on any node."""
        return frozenset().union(*self._left_out.values())

    def is_left_out(self, policy: PolicyKey) -> bool:
        """Whether it takes too much on any node."""
        return any(policy in policies for policies in self._left_out.values())

    def set_policy(self, key: PolicyKey, policy: CompiledPolicy | None) -> Set[PolicyKey]:
        """A policy is new or changed, or gone (None)."""
        rules = sum(map(_rendered, policy.all_rules)) if policy is not None else 0
        difference = rules - self._rules.pop(key, 0)
        if rules:
            self._rules[key] = rules
        changed = [place for place in self._classes if place.namespace == key.namespace] if difference else []
        for place in changed:
            self._totals[place] += difference * sum(key in each.policies for each in self._classes[place])
        return self._check(changed)

    def select(self, key: PolicyKey, gained: Mapping[int, PodFacts], lost: Iterable[int]) -> Set[PolicyKey]:
        """A policy selects these pods now and did not, or did and does not. Pods of one class are counted at once."""
        changes: dict[int, SelectedPod | None] = {}
        known: dict[SelectedPod | None, SelectedPod | None] = {}
        for pod_id in lost:
            old = self._pods[pod_id]
            if old not in known:
                left = old.policies - {key}
                known[old] = old._replace(policies=left) if left else None
            changes[pod_id] = known[old]
        known = {}
        for pod_id, pod in gained.items():
            before = self._pods.get(pod_id)
            if before is None:
                changes[pod_id] = SelectedPod(pod.namespace, pod.node, frozenset((key,)))
                continue
            if before not in known:
                known[before] = before._replace(policies=before.policies | {key})
            changes[pod_id] = known[before]
        return self.set_pods(changes)

    def set_pods(self, pods: Mapping[int, SelectedPod | None]) -> Set[PolicyKey]:
        """These pods, by their ids, are selected so now; None: by nothing."""
        changed: set[_Place] = set()
        for pod_id, new in pods.items():
            old = self._pods.pop(pod_id, None)
            if new is not None:
                self._pods[pod_id] = new
            if old != new:
                changed |= {self._add(each, count) for each, count in ((old, -1), (new, 1)) if each is not None}
        return self._check(changed)

    def _add(self, selected: SelectedPod, count: int) -> _Place:
        """One pod more, or less, of this class."""
        place = _Place(selected.namespace, selected.node)
        classes = self._classes[place]
        before = classes[selected]
        classes[selected] += count
        if not (before and classes[selected]):
            self._totals[place] += count * sum(self._rules.get(policy, 0) for policy in selected.policies)
        if not classes[selected]:
            del classes[selected]
        if not classes:
            del self._classes[place], self._totals[place]
        return place

    def _check(self, places: Iterable[_Place]) -> Set[PolicyKey]:
        """Only where the limit is, or was, exceeded this costs more than O(1)."""
        suspect = [place for place in places if self._totals[place] > MAX_RULES or place in self._left_out]
        if not suspect:
            return frozenset()
        before = self.left_out
        for place in suspect:
            self._left_out.pop(place, None)
            if exceeding := frozenset(self._exceeding(place)):
                self._left_out[place] = exceeding
        return before ^ self.left_out

    def _exceeding(self, place: _Place) -> Iterator[PolicyKey]:
        """The cheapest count first."""
        costs: Counter[PolicyKey] = Counter()
        for each in self._classes.get(place, ()):
            for policy in each.policies:
                costs[policy] += self._rules.get(policy, 0)
        total = 0
        for cost, policy in sorted((cost, policy) for policy, cost in costs.items()):
            total += cost
            if total > MAX_RULES:
                yield policy


def _rendered(rule: CompiledRule) -> int:
    """The kernel's rules for one of a policy, as `render/policy/class_chains.py` writes them: one for each peer × ports."""
    peers = 1 if rule.peers is None else len(rule.selectors) + (len(rule.selectors) < len(rule.peers))
    if rule.ports is None:
        return peers
    numbers = any(isinstance(port, PortSpan) for port in rule.ports)
    return peers * (numbers + len({port.protocol for port in rule.ports if isinstance(port, PortName)}))
