"""Selectors that select nothing, and ports that no selected pod has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from percale.model.field_path import FieldPath
from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.policy.lint.finding import LintFindings, finding
from percale.policy.lint.inventory import InventoryPod, ManifestInventory
from percale.policy.lint.parsed_policy import EVERYTHING, Block, NamedPort, Policy, Port, Ports, Rule, Selection

_SHOWN = 4
"""How many labels or ports a remark lists."""


def selects_nothing(policies: Iterable[Policy], inventory: ManifestInventory) -> LintFindings:
    """A subject or a peer that means no pod or no namespace of the manifests."""
    for policy in policies:
        yield from _nothing(policy, policy.subject, policy.subject.pods_field, inventory)
        for rule in policy.rules:
            for peer in rule.peers or ():
                if isinstance(peer.means, Selection):
                    yield from _nothing(policy, peer.means, peer.field, inventory)


def _nothing(policy: Policy, selection: Selection, part: FieldPath, inventory: ManifestInventory) -> LintFindings:
    where = selection.namespaces
    if isinstance(where, LabelSelector) and inventory.knows(where) and not inventory.matching_namespaces(where):
        yield finding(
            "selects-nothing",
            policy,
            part,
            f"{_last(selection.namespaces_field)} selects no namespace",
            f"the namespaces here have {_namespace_labels(where, inventory)}",
            field=selection.namespaces_field,
        )
        return
    if selection.pods == EVERYTHING or not inventory.knows_pods_of(selection) or inventory.selected(selection):
        return
    places = inventory.matching_namespaces(where)
    yield finding(
        "selects-nothing",
        policy,
        part,
        f"{_last(selection.pods_field)} selects no pod of {_places(places)}",
        _pods_near(selection, places, inventory),
        field=selection.pods_field,
    )


def _pods_near(selection: Selection, places: Sequence[str], inventory: ManifestInventory) -> str:
    """Where the pods are that it may have meant, or which labels the pods have where it looks."""
    elsewhere = {pod.namespace for pod in inventory.pods if selection.pods.matches(pod.labels)}
    if elsewhere:
        return f"pods with these labels are in {_places(sorted(elsewhere))}"
    here = [pod.labels for place in places for pod in inventory.in_namespace(place)]
    return f"the pods there have {_common(here)}" if here else "the manifests have no pods there"


def _namespace_labels(where: LabelSelector, inventory: ManifestInventory) -> str:
    """The names when it asks for one, else the labels that people gave them."""
    if NAME_LABEL in where.matchLabels:
        return f"the names {_listed(sorted(inventory.namespaces))}"
    given = [{key: value for key, value in each.items() if key != NAME_LABEL} for each in inventory.namespaces.values()]
    return _common(given)


def ports_nobody_has(policies: Iterable[Policy], inventory: ManifestInventory) -> LintFindings:
    """Named ports that no destination pod has, and (as information) numbers that none declares."""
    for policy in policies:
        for rule in policy.rules:
            pods = _destinations(policy, rule, inventory)
            for port in rule.ports or ():
                if isinstance(port.means, NamedPort):
                    yield from _name(policy, rule, port, port.means, pods)
                elif isinstance(port.means, Ports) and pods and (rule.direction == "ingress" or rule.peers):
                    yield from _number(policy, port, port.means, pods)


def _destinations(policy: Policy, rule: Rule, inventory: ManifestInventory) -> Sequence[InventoryPod] | None:
    """The pods whose ports are meant; None: the manifests do not hold them all."""
    if rule.direction == "ingress":
        return inventory.selected(policy.subject) if inventory.knows_pods_of(policy.subject) else None
    if rule.peers is None:
        return inventory.pods or None
    found: list[InventoryPod] = []
    for peer in rule.peers:
        if not isinstance(peer.means, Selection) or not inventory.knows_pods_of(peer.means):
            return None
        found += inventory.selected(peer.means)
    return found


def _name(
    policy: Policy, rule: Rule, port: Port, wanted: NamedPort, pods: Sequence[InventoryPod] | None
) -> LintFindings:
    if rule.direction == "egress" and rule.peers and all(isinstance(peer.means, Block) for peer in rule.peers):
        yield finding(
            "named-port-outside",
            policy,
            port.field,
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
    yield finding("nobody-has-named-port", policy, port.field, what, hint)


def _number(policy: Policy, port: Port, wanted: Ports, pods: Sequence[InventoryPod]) -> LintFindings:
    """Containers need not declare what they listen on, so it is only worth a look, and only when all declare some."""
    if wanted == Ports(wanted.protocol) or not all(pod.ports for pod in pods):
        return
    declared = [each for pod in pods for each in pod.ports]
    if any(each.protocol == wanted.protocol and wanted.first <= each.number <= wanted.last for each in declared):
        return
    numbers = str(wanted.first) if wanted.first == wanted.last else f"{wanted.first}-{wanted.last}"
    there = Counter(f"{each.number}/{each.protocol}" for each in declared)
    yield finding(
        "nobody-has-port",
        policy,
        port.field,
        f"no pod that it means declares {numbers}/{wanted.protocol}",
        f"the pods declare {_listed(_most(there))}",
        severity="info",
    )


def _last(field: FieldPath) -> str:
    return str(field[-1])


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
