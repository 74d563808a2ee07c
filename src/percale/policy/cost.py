"""Limits on what NetworkPolicies cost each node with pods of theirs, in time and elements. `evaluator.py` asks.

A policy's author, who may write in one namespace, must not use up the agents' time, for which all policies wait: neither by one
policy nor by many of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from percale.policy.compiled_policy import CompiledPolicy, CompiledRule, PolicyKey
from percale.policy.rule_terms import NodeSelectorTerm, PodSelectorTerm
from percale.policy.selector_index import SelectorIndex

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
        self.too_large: set[PolicyKey] = set()
        """As of the last question: those that exceed a limit. Of a namespace's policies, the most expensive ones."""
        self._index = index
        self._policies: defaultdict[str | None, dict[PolicyKey, CompiledPolicy]] = defaultdict(dict)
        self._costs: dict[PolicyKey, int] = {}
        """Until the policy changes."""
        self._counted: set[str | None] = set()
        """Namespaces whose policies are all in `_costs`."""

    def put(self, policy: CompiledPolicy) -> set[PolicyKey]:
        """A policy is new or changed; returns others that are too large now, or no longer."""
        self._costs.pop(policy.key, None)
        self._policies[policy.key.namespace][policy.key] = policy
        return self._count_again(policy.key)

    def remove(self, key: PolicyKey) -> set[PolicyKey]:
        """It was deleted; likewise."""
        self._costs.pop(key, None)
        del self._policies[key.namespace][key]
        return self._count_again(key)

    def is_too_large(self, key: PolicyKey) -> bool:
        """Whether its rules are left out."""
        if key.namespace not in self._counted:
            self._count(key.namespace)
        return key in self.too_large

    def _count_again(self, changed: PolicyKey) -> set[PolicyKey]:
        if changed.namespace not in self._counted:
            return set()
        before = set(self.too_large)
        self._count(changed.namespace)
        return (before ^ self.too_large) - {changed}

    def _count(self, namespace: str | None) -> None:
        policies = self._policies[namespace]
        for key in policies.keys() - self._costs.keys():
            self._costs[key] = _cost(policies[key], self._index)
        self._counted.add(namespace)
        self.too_large = {key for key in self.too_large if key.namespace != namespace}
        total = 0
        for key in sorted(policies, key=lambda key: (self._costs[key], key)):
            total += self._costs[key]
            if self._costs[key] > MAX_COST or total > MAX_NAMESPACE_COST:
                self.too_large.add(key)


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
