"""Checks for redundant rules and policies. Only what is certain for every cluster is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from percale.policy.compiled_policy import CompiledPolicy, CompiledRule
from percale.policy.lint.containment import rule_within, term_within
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding


def identical_policies(policies: Sequence[LintedPolicy]) -> LintFindings:
    """Policies of the same namespace (or tier and priority) with the same content: the later one is reported."""
    for later, earlier in _duplicates(policies):
        yield finding(
            "identical",
            later,
            ("spec",),
            f"it says the same as {earlier.name} ({earlier.source})",
            "remove one of them",
        )


def shadowed_rules(policies: Sequence[LintedPolicy]) -> LintFindings:
    """Rules without which nothing would change: another rule has decided all that they match."""
    duplicates = {later.name for later, _ in _duplicates(policies)}
    by_scope: dict[object, list[LintedPolicy]] = {}
    for policy in policies:
        if policy.name not in duplicates:
            by_scope.setdefault(_scope(policy.compiled), []).append(policy)
    for group in by_scope.values():
        others = [each.compiled for each in group]
        for policy in group:
            for rule in policy.compiled.all_rules:
                yield from _shadowed(policy, rule, others)


def _shadowed(policy: LintedPolicy, rule: CompiledRule, others: Iterable[CompiledPolicy]) -> LintFindings:
    for by in _candidates(policy.compiled, rule, others):
        if not by.unknown_fields and not rule.unknown_fields and rule_within(rule, by):
            if policy.compiled.tier == "NetworkPolicy":
                what = f"{by.ref} already allows all that this rule allows"
            else:
                what = f"{by.ref} comes first and matches all that this rule matches ({by.action})"
            yield finding("shadowed", policy, rule.ref.field, what, "remove the rule, or make the other one narrower")
            return


def _candidates(policy: CompiledPolicy, rule: CompiledRule, others: Iterable[CompiledPolicy]) -> Iterator[CompiledRule]:
    """The rules that may shadow this one: those that are added to it, or those that are evaluated before it."""
    for other in others:
        if other is policy or term_within(policy.subject, other.subject):
            for by in other.rules(rule.ref.direction):
                if by is not rule and (
                    _covers(other, by, policy, rule)
                    if policy.tier == "NetworkPolicy"
                    else _precedes(other, by, policy, rule)
                ):
                    yield by


def _precedes(other: CompiledPolicy, by: CompiledRule, policy: CompiledPolicy, rule: CompiledRule) -> bool:
    return by.ref.position < rule.ref.position if other is policy else other.priority < policy.priority


def _covers(other: CompiledPolicy, by: CompiledRule, policy: CompiledPolicy, rule: CompiledRule) -> bool:
    """Of two rules with the same matches for the same pods, only the later one is shadowed."""
    same = rule_within(by, rule) and term_within(other.subject, policy.subject)
    return not same or (other.key, by.ref.position) < (policy.key, rule.ref.position)


def _scope(policy: CompiledPolicy) -> object:
    """Policies of one scope can shadow each other."""
    return policy.tier, policy.subject.namespaces if policy.tier == "NetworkPolicy" else None


def _duplicates(policies: Sequence[LintedPolicy]) -> Iterator[tuple[LintedPolicy, LintedPolicy]]:
    """Later and earlier one of each pair."""
    seen: dict[object, LintedPolicy] = {}
    for policy in policies:
        earlier = seen.setdefault(_content(policy.compiled), policy)
        if earlier is not policy:
            yield policy, earlier


def _content(policy: CompiledPolicy) -> object:
    """All of it but its name."""
    rules = tuple(
        (rule.ref.direction, rule.action, rule.peers, rule.ports, rule.unknown_fields) for rule in policy.all_rules
    )
    return policy.key.namespace, policy.tier, policy.priority, policy.subject, policy.isolates, rules
