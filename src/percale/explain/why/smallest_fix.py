"""For a side that denies: the smallest change that allows this flow and no other, or the reason why there is none.

Called by `connection.py` and told by `text.py` and `document.py`; pure.

    one rule lacks a label at the pod   the label: the pod gets what that rule gives to the pods it names, and nothing else
    otherwise, where policies isolate   a rule of one port, from the pods with the labels of one end (or its address) to the
                                        pods with the labels of the other: in a policy of those pods alone, else in a new one.
                                        A policy without a selector also means the namespace's pods to come: no rule in there

Nothing is proposed that closes anything: no label is changed or removed, and no pod is isolated that was open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.explain.why.nearest_rule import Nearest
from percale.explain.why.targets import TargetLookup
from percale.model.meta import ObjectKey
from percale.model.namespace import NAME_LABEL
from percale.model.networkpolicy import NetworkPolicy
from percale.policy.compiled_policy import PEERS_FIELD, CompiledRule, PolicyKey, RuleRef
from percale.policy.evaluator import Evaluator
from percale.policy.flow_match import peer_matches
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import EVERYTHING, Direction, PodSelectorTerm, digest
from percale.policy.verdict import Decision, Flow, FlowEnd

_GENERATED = frozenset(
    (
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
    )
)
"""Labels that a workload's controller gives to pods: another one with the next template, or for each pod."""


class AddLabels(Struct, frozen=True):
    """Of a pod that no workload makes."""

    pod: ObjectKey
    labels: Mapping[str, str]


class AddRule(Struct, frozen=True):
    """A rule more, as it stands in a manifest."""

    policy: PolicyKey
    direction: Direction
    rule: Mapping[str, Any]


class AddPolicy(Struct, frozen=True):
    """A NetworkPolicy of its own, as a manifest."""

    manifest: Mapping[str, Any]


class NoFix(Struct, frozen=True):
    """Why nothing is proposed."""

    reason: str


Change: TypeAlias = AddLabels | AddRule | AddPolicy | NoFix


class Fix(Struct, frozen=True):
    """Of the side that denies."""

    direction: Direction
    change: Change


def useful(fixes: Iterable[Fix]) -> tuple[Fix, ...]:
    """Of both sides: where one has none, the other's would open something and not allow the flow."""
    found = tuple(fixes)
    return tuple(each for each in found if isinstance(each.change, NoFix)) or found


def smallest_fix(lookup: TargetLookup, flow: Flow, decision: Decision, near: Nearest | None) -> Fix | None:
    """None: this side does not deny."""
    if decision.allowed:
        return None
    ends = flow.source, flow.destination
    subject, peer = ends if decision.direction == "egress" else ends[::-1]
    assert subject.pod is not None
    labels = _missing_labels(lookup, peer, near)
    if labels is not None and peer.pod is not None:
        return Fix(decision.direction, AddLabels(peer.pod.key, labels))
    if decision.rule is not None:
        return Fix(decision.direction, NoFix(_why_not(lookup.evaluator, decision.rule, subject.pod)))
    return Fix(
        decision.direction, _rule_change(lookup.evaluator, flow, _nearest_first(decision, near), subject.pod, peer)
    )


def _why_not(evaluator: Evaluator, rule: RuleRef, pod: PodFacts) -> str:
    if evaluator.policies[rule.policy].tier == "Admin":
        return f"{rule} denies it, whatever NetworkPolicies allow"
    return f"{rule} denies it unless a NetworkPolicy isolates {pod.key}, and that would close more"


# Labels


def _missing_labels(lookup: TargetLookup, peer: FlowEnd, near: Nearest | None) -> dict[str, str] | None:
    """The labels that the nearest rule asks for, if nothing else asks for them; None: they would not do, or do more."""
    pod, evaluator = peer.pod, lookup.evaluator
    if near is None or pod is None or pod.key in lookup.owned or pod.labels.keys() & _GENERATED:
        return None
    missing = [each.label for each in near.differences if each.label is not None]
    if len(missing) != len(near.differences):
        return None
    labels = dict(missing)
    changed = replace(pod, labels={**pod.labels, **labels})
    (rule,) = (each for each in _rules(evaluator, near.rule.policy) if each.ref == near.rule)
    fits = any(
        peer_matches(each, replace(peer, pod=changed), evaluator.selector_index, evaluator.node_index)
        for each in rule.peers or ()
    )
    if not fits or any(_selection_differs(each, pod, changed, evaluator) for each in _other_terms(evaluator, rule)):
        return None
    selectors = (each for namespace, each in lookup.selectors if namespace == pod.namespace)
    if any(each.matches(pod.labels) != each.matches(changed.labels) for each in selectors):
        return None
    return labels


def _rules(evaluator: Evaluator, policy: PolicyKey) -> Iterable[CompiledRule]:
    return evaluator.policies[policy].all_rules


def _other_terms(evaluator: Evaluator, rule: CompiledRule) -> Iterator[PodSelectorTerm]:
    """The pod selectors of all policies but for those of this rule."""
    for policy in evaluator.policies.values():
        yield policy.subject
        for each in policy.all_rules:
            if each.ref != rule.ref:
                yield from (peer for peer in each.peers or () if isinstance(peer, PodSelectorTerm))


def _selection_differs(term: PodSelectorTerm, before: PodFacts, after: PodFacts, evaluator: Evaluator) -> bool:
    index = evaluator.selector_index
    return index.matches(term, before) != index.matches(term, after)


# Rules


def _nearest_first(decision: Decision, near: Nearest | None) -> Decision:
    """Of the policies that isolate, the one of the nearest rule first."""
    if near is None:
        return decision
    return replace(decision, isolating=tuple(sorted(decision.isolating, key=lambda each: each != near.rule.policy)))


def _rule_change(
    evaluator: Evaluator, flow: Flow, decision: Decision, subject: PodFacts, peer: FlowEnd
) -> AddRule | AddPolicy | NoFix:
    if flow.port is None:
        return NoFix("ICMP has no port: a rule allows it only with all ports of every protocol")
    for pod in (subject, peer.pod):
        if pod is not None and not _own_labels(pod):
            return NoFix(f"{pod.key} has no labels by which a policy could mean it and not its whole namespace")
    item = _peer_item(evaluator, subject.namespace, peer)
    if isinstance(item, NoFix):
        return item
    port = {"port": flow.port, "protocol": flow.protocol}
    rule = {PEERS_FIELD[decision.direction]: [item], "ports": [port]}
    alike = _alike(evaluator, subject)
    for key in decision.isolating:
        if evaluator.policy_kinds.object_key(key)[0] is NetworkPolicy and _selects_only(evaluator, key, alike):
            return AddRule(key, decision.direction, rule)
    for pod_key in sorted(alike):
        if not evaluator.class_of(evaluator.selector_index.pod_ids[pod_key]).isolating(decision.direction):
            return NoFix(f"a policy that selects {subject.key} by its labels would isolate {pod_key}, which is open")
    return AddPolicy(_manifest(subject, decision.direction, rule))


def _own_labels(pod: PodFacts) -> dict[str, str]:
    return {key: value for key, value in pod.labels.items() if key not in _GENERATED}


def _peer_item(evaluator: Evaluator, home: str, peer: FlowEnd) -> dict[str, Any] | NoFix:
    """Pods by their labels, everybody else by address."""
    pod = peer.pod
    if pod is None:
        if evaluator.flow_end(peer.address) != peer:
            return NoFix(f"node {peer.node} has no address by which a rule could mean it")
        return {"ipBlock": {"cidr": f"{ip_address(peer.address)}/{len(peer.address) * 8}"}}
    item = {"podSelector": {"matchLabels": _own_labels(pod)}}
    if pod.namespace == home:
        return item
    if evaluator.selector_index.labels_of(pod.namespace).get(NAME_LABEL) != pod.namespace:
        return NoFix(f"namespace {pod.namespace} lacks the label {NAME_LABEL}")
    return {"namespaceSelector": {"matchLabels": {NAME_LABEL: pod.namespace}}, **item}


def _alike(evaluator: Evaluator, subject: PodFacts) -> set[ObjectKey]:
    """The pods of its namespace that have all its labels, itself among them."""
    labels = _own_labels(subject).items()
    return {
        pod.key
        for pod in evaluator.selector_index.pods
        if pod is not None and pod.selectable and pod.namespace == subject.namespace and labels <= pod.labels.items()
    }


def _selects_only(evaluator: Evaluator, policy: PolicyKey, alike: set[ObjectKey]) -> bool:
    subject = evaluator.policies[policy].subject
    return subject.pods != EVERYTHING and {pod.key for pod in evaluator.selector_index.members(subject)} <= alike


def _manifest(subject: PodFacts, direction: Direction, rule: Mapping[str, Any]) -> dict[str, Any]:
    spec = {
        "podSelector": {"matchLabels": _own_labels(subject)},
        "policyTypes": [direction.capitalize()],
        direction: [rule],
    }
    return {
        "apiVersion": NetworkPolicy.API_VERSION,
        "kind": NetworkPolicy.KIND,
        "metadata": {"name": f"allow-{direction}-{digest(spec)[:12]}", "namespace": subject.namespace},
        "spec": spec,
    }
