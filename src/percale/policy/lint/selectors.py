"""Selectors that select nothing, and ports that no selected pod has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from percale.model.field_path import FieldPath
from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.policy.compiled_policy import CompiledRule
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding
from percale.policy.lint.inventory import InventoryPod, ManifestInventory
from percale.policy.rule_terms import EVERYTHING, Block, PodSelectorTerm, PortName, PortSpan

_SHOWN = 4
"""How many labels or ports a finding lists."""


def empty_selectors(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """A subject or a peer that selects no pod or no namespace of the manifests."""
    for policy in policies:
        subject, field = policy.compiled.subject, policy.compiled.subject_field
        yield from _empty_selector(policy, subject, field, _selector_fields(field)[1], inventory)
        for rule in policy.compiled.all_rules:
            for field, peer in rule.placed_peers:
                if isinstance(peer, PodSelectorTerm):
                    yield from _empty_selector(policy, peer, field, field[:_ITEM], inventory)


_ITEM = len(("spec", "ingress", 0, "from", 0))


def _selector_fields(field: FieldPath) -> tuple[FieldPath, FieldPath]:
    """The fields of the namespace selector and of the pod selector, below a subject's or a peer's."""
    if field[-1] == "namespaces":
        return field, field
    return (*field, "namespaceSelector"), (*field, "podSelector")


def _empty_selector(
    policy: LintedPolicy, term: PodSelectorTerm, field: FieldPath, part: FieldPath, inventory: ManifestInventory
) -> LintFindings:
    where = term.namespaces
    namespaces_field, pods_field = _selector_fields(field)
    if isinstance(where, LabelSelector) and inventory.knows(where) and not inventory.matching_namespaces(where):
        yield finding(
            "selects-nothing",
            policy,
            part,
            f"{namespaces_field[-1]} selects no namespace",
            _namespaces_near(where, inventory),
            field=namespaces_field,
        )
        return
    if term.pods == EVERYTHING or not inventory.knows_pods_of(term) or inventory.selected(term):
        return
    places = inventory.matching_namespaces(where)
    yield finding(
        "selects-nothing",
        policy,
        part,
        f"{pods_field[-1]} selects no pod of {_places(places)}",
        _pods_near(term, places, inventory),
        field=pods_field,
    )


def _pods_near(term: PodSelectorTerm, places: Sequence[str], inventory: ManifestInventory) -> str:
    """Where pods with these labels are, or which labels the pods have in these namespaces."""
    elsewhere = {pod.namespace for pod in inventory.pods if term.pods.matches(pod.labels)}
    if elsewhere:
        return f"pods with these labels are in {_places(sorted(elsewhere))}"
    here = [pod.labels for place in places for pod in inventory.in_namespace(place)]
    return f"the pods there have {_common(here)}" if here else "the manifests have no pods there"


def _namespaces_near(where: LabelSelector, inventory: ManifestInventory) -> str:
    """What the namespaces have: the label of their names if `name` is taken for it, their names, or their other labels."""
    name = where.matchLabels.get("name")
    if name in inventory.namespaces:
        return f"a namespace's name is its label {NAME_LABEL}: write `{NAME_LABEL}: {name}`"
    if NAME_LABEL in where.matchLabels:
        return f"the namespaces here have the names {_listed(sorted(inventory.namespaces))}"
    given = [{key: value for key, value in each.items() if key != NAME_LABEL} for each in inventory.namespaces.values()]
    return f"the namespaces here have {_common(given)}"


def undeclared_ports(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """Named ports that no destination pod has, and (as information) numbers that none declares."""
    for policy in policies:
        for rule in policy.compiled.all_rules:
            pods = _destinations(policy, rule, inventory)
            for field, port in rule.placed_ports:
                if isinstance(port, PortName):
                    yield from _undeclared_name(policy, rule, field, port, pods)
                elif pods and (rule.ref.direction == "ingress" or rule.peers):
                    yield from _undeclared_number(policy, field, port, pods)


def _destinations(
    policy: LintedPolicy, rule: CompiledRule, inventory: ManifestInventory
) -> Sequence[InventoryPod] | None:
    """The pods whose ports are matched; None if the manifests do not contain them all."""
    subject = policy.compiled.subject
    if rule.ref.direction == "ingress":
        return inventory.selected(subject) if inventory.knows_pods_of(subject) else None
    if rule.peers is None:
        return inventory.pods or None
    if rule.unknown_fields:
        return None
    found: list[InventoryPod] = []
    for peer in rule.peers:
        if not isinstance(peer, PodSelectorTerm) or not inventory.knows_pods_of(peer):
            return None
        found += inventory.selected(peer)
    return found


def _undeclared_name(
    policy: LintedPolicy, rule: CompiledRule, field: FieldPath, wanted: PortName, pods: Sequence[InventoryPod] | None
) -> LintFindings:
    if rule.ref.direction == "egress" and rule.peers and all(isinstance(peer, Block) for peer in rule.peers):
        yield finding(
            "named-port-outside",
            policy,
            field,
            f'only pods have a port named "{wanted.name}", addresses outside the cluster have none',
            "write the number",
        )
        return
    declared = [each for pod in pods or () for each in pod.ports]
    protocols = (wanted.protocol,) if wanted.protocol else ("TCP", "UDP", "SCTP")
    if not pods or any(each.name == wanted.name and each.protocol in protocols for each in declared):
        return
    others = {each.protocol for each in declared if each.name == wanted.name}
    if others:
        what = f'the port named "{wanted.name}" is {_listed(sorted(others))}, not {wanted.protocol}'
        hint = f"write protocol: {min(others)}"
    else:
        suffix = f" ({wanted.protocol})" if wanted.protocol else ""
        what = f'no pod that it means has a port named "{wanted.name}"{suffix}'
        names = Counter(each.name for each in declared if each.name)
        hint = f"the pods name {_listed(_most(names))}" if names else "the pods name none; write the number"
    yield finding("nobody-has-named-port", policy, field, what, hint)


def _undeclared_number(
    policy: LintedPolicy, field: FieldPath, wanted: PortSpan, pods: Sequence[InventoryPod]
) -> LintFindings:
    """Containers need not declare their ports: this is information, and only when all pods declare some."""
    if wanted == PortSpan(wanted.protocol) or not all(pod.ports for pod in pods):
        return
    declared = [each for pod in pods for each in pod.ports]
    if any(each.protocol == wanted.protocol and wanted.first <= each.containerPort <= wanted.last for each in declared):
        return
    numbers = str(wanted.first) if wanted.first == wanted.last else f"{wanted.first}-{wanted.last}"
    there = Counter(f"{each.containerPort}/{each.protocol}" for each in declared)
    yield finding(
        "nobody-has-port",
        policy,
        field,
        f"no pod that it means declares {numbers}/{wanted.protocol}",
        f"the pods declare {_listed(_most(there))}",
        severity="info",
    )


def _places(namespaces: Sequence[str]) -> str:
    shown = _listed(namespaces[:_SHOWN])
    return f"namespace {shown}" if len(namespaces) == 1 else f"the namespaces {shown}"


def _common(labels: Iterable[Mapping[str, str]]) -> str:
    """The labels that most of them have."""
    counted = Counter(f"{key}: {value}" for each in labels for key, value in sorted(each.items()))
    return _listed(_most(counted)) or "no labels"


def _most(counted: Counter[str]) -> list[str]:
    return [word for word, _ in counted.most_common(_SHOWN)]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
