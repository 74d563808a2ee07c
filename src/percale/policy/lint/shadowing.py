"""Rules and policies that change nothing, because others are there. Only what is certain for every cluster is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from percale.policy.lint.containment import rule_within, selection_within
from percale.policy.lint.finding import LintFindings, finding
from percale.policy.lint.parsed_policy import Peer, Policy, Port, Rule, Unknown


def identical_policies(policies: Sequence[Policy]) -> LintFindings:
    """Two policies of the same namespace (or tier and priority) that say the same: the later one is named."""
    for later, earlier in _twins(policies):
        yield finding(
            "identical",
            later,
            ("spec",),
            f"it says the same as {earlier.name} ({earlier.source})",
            "remove one of them",
        )


def shadowed_rules(policies: Sequence[Policy]) -> LintFindings:
    """Rules without which nothing would change: all that they match, another rule has decided."""
    twins = {later.name for later, _ in _twins(policies)}
    kept = [policy for policy in policies if policy.name not in twins]
    by_place: dict[object, list[Policy]] = {}
    for policy in kept:
        by_place.setdefault(_place(policy), []).append(policy)
    for group in by_place.values():
        for policy in group:
            for rule in policy.rules:
                yield from _shadow(policy, rule, group)


def _shadow(policy: Policy, rule: Rule, others: Iterable[Policy]) -> LintFindings:
    for other, by in _candidates(policy, rule, others):
        if _certain(by) and _certain(rule) and rule_within(rule, by):
            name = f"{other.name}#{by.direction}[{by.field[-1]}]"
            if policy.tier == "NetworkPolicy":
                what = f"{name} already allows all that this rule allows"
            else:
                what = f"{name} comes first and matches all that this rule matches ({by.action})"
            yield finding("shadowed", policy, rule.field, what, "remove the rule, or make the other one narrower")
            return


def _candidates(policy: Policy, rule: Rule, others: Iterable[Policy]) -> Iterator[tuple[Policy, Rule]]:
    """The rules that may make this one idle: those that add up with it, or those that are asked before it."""
    for other in others:
        if other is policy or selection_within(policy.subject, other.subject):
            for by in other.rules_of(rule.direction):
                if by is not rule and (
                    _says_more(other, by, policy, rule)
                    if policy.tier == "NetworkPolicy"
                    else _comes_first(other, by, policy, rule)
                ):
                    yield other, by


def _comes_first(other: Policy, by: Rule, policy: Policy, rule: Rule) -> bool:
    return by.field < rule.field if other is policy else other.priority < policy.priority


def _says_more(other: Policy, by: Rule, policy: Policy, rule: Rule) -> bool:
    """Of two rules that mean the same for the same pods, only the later one is idle."""
    same = rule_within(by, rule) and selection_within(other.subject, policy.subject)
    return not same or (other.name, by.field) < (policy.name, rule.field)


def _certain(rule: Rule) -> bool:
    parts: tuple[Peer | Port, ...] = (*(rule.peers or ()), *(rule.ports or ()))
    return not any(isinstance(part.means, Unknown) for part in parts)


def _place(policy: Policy) -> object:
    """Policies of one place can shadow each other."""
    return policy.tier, policy.subject.namespaces if policy.tier == "NetworkPolicy" else None


def _twins(policies: Sequence[Policy]) -> Iterator[tuple[Policy, Policy]]:
    seen: dict[object, Policy] = {}
    for policy in policies:
        key = (policy.obj.metadata.namespace, policy.obj.KIND, policy.obj.spec)
        earlier = seen.setdefault(key, policy)
        if earlier is not policy:
            yield policy, earlier
