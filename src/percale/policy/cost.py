"""A limit on what one NetworkPolicy costs each node with pods of its, in time and elements. `evaluator.py` checks it.

A policy's author, who may write in one namespace, must not use up the agents' time, for which all policies wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from percale.policy.compiled_policy import CompiledPolicy, CompiledRule
from percale.policy.rule_terms import NodeSelectorTerm, PodSelectorTerm
from percale.policy.selector_index import SelectorIndex

MAX_COST = 500_000
"""Comparisons of pods with selectors, about a microsecond each: 50 selectors of all namespaces in a cluster of 10,000 pods."""
_RULE = 100
_SET = 500
"""A set of the kernel's, and its rule: half a millisecond."""
_BLOCK = 10
_PORT = 5
_VALUES = 16
"""Values of a selector that are compared in the time of one comparison."""


def is_too_large(policy: CompiledPolicy, index: SelectorIndex) -> bool:
    """Whether the policy exceeds the limit, with the pods and namespaces that there are now."""
    total = 0
    for rule in policy.all_rules:
        for cost in _costs(rule, index):
            total += cost
            if total > MAX_COST:
                return True
    return False


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
