"""Limits on what NetworkPolicies cost each node with pods of theirs, in time and elements. `evaluator.py` asks.

A policy's author, who may write in one namespace, must not use up the agents' time, for which all policies wait: neither by one
policy nor by many of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set

from percale.policy.compiled_policy import CompiledPolicy, CompiledRule, PolicyKey
from percale.policy.rule_terms import NodeSelectorTerm, PodSelectorTerm
from percale.policy.selector_index import SelectorIndex
from percale.shared_limits import SharedLimit

MAX_COST = 500_000
"""Comparisons of pods with selectors, about a microsecond each: 50 selectors of all namespaces in a cluster of 10,000 pods."""
MAX_NAMESPACE_COST = 4 * MAX_COST
"""Of all policies of a namespace together: a chain has the rules of all that select a pod, and is rendered as a whole."""
_POLICY = 100
_RULE = 100
_SET = 500
"""A set of the kernel's, and its rule: half a millisecond."""
_BLOCK = 10
_PORT = 5
_VALUES = 16
"""Values of a selector that are compared in the time of one comparison."""


class PolicyCosts:
    """The NetworkPolicies by namespace. Costs are counted when a namespace is first asked for: pods are known then."""

    def __init__(self, index: SelectorIndex) -> None:
        self._index = index
        self._policies: defaultdict[str | None, dict[PolicyKey, CompiledPolicy]] = defaultdict(dict)
        self._limit = SharedLimit[str | None, PolicyKey](MAX_NAMESPACE_COST)
        self._counted: dict[str | None, set[PolicyKey]] = {}
        """In namespaces that were asked for, policies that exceed the limit by themselves."""

    @property
    def too_large(self) -> Iterator[PolicyKey]:
        """The policies whose rules are left out; of a namespace's together, the most expensive ones."""
        for namespace, by_themselves in self._counted.items():
            yield from by_themselves | self._limit.left_out(namespace)

    def put(self, policy: CompiledPolicy) -> Set[PolicyKey]:
        """A policy is new or changed; returns others that are too large now, or no longer."""
        key = policy.key
        self._policies[key.namespace][key] = policy
        return self._count(policy) - {key} if key.namespace in self._counted else frozenset()

    def remove(self, key: PolicyKey) -> Set[PolicyKey]:
        """It was deleted; likewise."""
        del self._policies[key.namespace][key]
        if key.namespace not in self._counted:
            return frozenset()
        self._counted[key.namespace].discard(key)
        return self._limit.set(key.namespace, key, 0) - {key}

    def is_too_large(self, key: PolicyKey) -> bool:
        """Whether its rules are left out."""
        if key.namespace not in self._counted:
            self._counted[key.namespace] = set()
            for policy in self._policies[key.namespace].values():
                self._count(policy)
        return key in self._counted[key.namespace] or key in self._limit.left_out(key.namespace)

    def _count(self, policy: CompiledPolicy) -> Set[PolicyKey]:
        key, cost = policy.key, _cost(policy, self._index)
        self._counted[key.namespace].discard(key)
        if cost > MAX_COST:
            self._counted[key.namespace].add(key)
            cost = 0
        return self._limit.set(key.namespace, key, cost)


def _cost(policy: CompiledPolicy, index: SelectorIndex) -> int:
    """With the pods and namespaces that there are now; of one that exceeds the limit anything above it."""
    total = _POLICY
    for rule in policy.all_rules:
        for cost in _costs(rule, index):
            total += cost
            if total > MAX_COST:
                return total
    return total


def _costs(rule: CompiledRule, index: SelectorIndex) -> Iterator[int]:
    yield _RULE + _PORT * len(rule.ports or ())
    for peer in rule.peers or ():
        match peer:
            case PodSelectorTerm():
                expressions = peer.pods.matchExpressions
                if not isinstance(peer.namespaces, str):
                    expressions += peer.namespaces.matchExpressions
                values = sum(len(each.values) for each in expressions)
                yield _SET + index.compared_with(peer) * (1 + values // _VALUES)
            case NodeSelectorTerm():
                yield _SET
            case _:
                yield _BLOCK
