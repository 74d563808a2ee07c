"""Ports that no selected pod has, and those that only a Service has: policies see packets that have been translated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from percale.model.field_path import FieldPath
from percale.model.service import Service, ServicePort
from percale.policy.compiled_policy import CompiledRule
from percale.policy.lint.finding import LintedPolicy, LintFinding, LintFindings, finding, listed, most
from percale.policy.lint.inventory import InventoryPod, ManifestInventory
from percale.policy.rule_terms import Block, PodSelectorTerm, Port, PortName, PortSpan


def undeclared_ports(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """Named ports that no destination pod has, and (as information) numbers that none declares."""
    for policy in policies:
        for rule in policy.compiled.all_rules:
            pods = _destinations(policy, rule, inventory)
            for field, port in rule.placed_ports:
                if isinstance(port, PortName):
                    yield from _undeclared_name(policy, rule, field, port, pods, inventory=inventory)
                elif pods and (rule.ref.direction == "ingress" or rule.peers):
                    target = _mistaken_number(port, rule, pods, inventory)
                    if target is not None:
                        yield _service_port(policy, field, port, target)
                    else:
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
    policy: LintedPolicy,
    rule: CompiledRule,
    field: FieldPath,
    wanted: PortName,
    pods: Sequence[InventoryPod] | None,
    *,
    inventory: ManifestInventory,
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
    target = next((each for pod in pods for each in _targets(pod, inventory) if each.port.name == wanted.name), None)
    others = {each.protocol for each in declared if each.name == wanted.name}
    if target is not None and not others:
        yield _service_port(policy, field, wanted, target)
        return
    if others:
        what = f'the port named "{wanted.name}" is {listed(sorted(others))}, not {wanted.protocol}'
        hint = f"write protocol: {min(others)}"
    else:
        suffix = f" ({wanted.protocol})" if wanted.protocol else ""
        what = f'no pod that it means has a port named "{wanted.name}"{suffix}'
        names = Counter(each.name for each in declared if each.name)
        hint = f"the pods name {listed(most(names))}" if names else "the pods name none; write the number"
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
        f"the pods declare {listed(most(there))}",
        severity="info",
    )


# Ports of Services


class _ServiceTarget(Struct, frozen=True):
    """A port of a Service, and the port of a pod that it leads to; None if the pod does not name it."""

    service: Service
    port: ServicePort
    number: int | None


def _targets(pod: InventoryPod, inventory: ManifestInventory) -> Iterator[_ServiceTarget]:
    """What leads to this pod. A headless Service translates nothing."""
    for service in inventory.services_of(pod):
        if service.spec.clusterIP != "None":
            for port in service.spec.ports:
                yield _ServiceTarget(service, port, _target_number(port, pod))


def _target_number(port: ServicePort, pod: InventoryPod) -> int | None:
    if isinstance(port.targetPort, str):
        named = (each for each in pod.ports if each.name == port.targetPort and each.protocol == port.protocol)
        return next((each.containerPort for each in named), None)
    return port.port if port.targetPort is None else port.targetPort


def _mistaken_number(
    wanted: PortSpan, rule: CompiledRule, pods: Sequence[InventoryPod], inventory: ManifestInventory
) -> _ServiceTarget | None:
    """The Service whose port this is, when none of the pods listens on it; none if the rule allows the pods' port too."""
    if wanted.first != wanted.last:
        return None
    mistaken: list[_ServiceTarget] = []
    for pod in pods:
        targets = [each for each in _targets(pod, inventory) if each.port.protocol == wanted.protocol]
        here = [each for each in targets if each.port.port == wanted.first]
        ports = {each.containerPort for each in pod.ports if each.protocol == wanted.protocol}
        ports |= {each.number for each in targets if each.number is not None}
        if wanted.first in ports or not (here or pod.ports):
            return None
        mistaken += here
    allowed = any(_leads_to(each, port) for each in mistaken for port in rule.ports or ())
    return mistaken[0] if mistaken and not allowed else None


def _leads_to(target: _ServiceTarget, port: Port) -> bool:
    if isinstance(port, PortName):
        return port.name == target.port.targetPort
    return port.protocol == target.port.protocol and target.number is not None and target.number in port


def _service_port(policy: LintedPolicy, field: FieldPath, wanted: Port, target: _ServiceTarget) -> LintFinding:
    said = f'"{wanted.name}"' if isinstance(wanted, PortName) else str(wanted.first)
    written = target.port.targetPort if target.port.targetPort is not None else target.port.port
    what = f"{said} is the port of Service {target.service.key}, and policies see that of its pods, {written}"
    return finding("service-port", policy, field, what, f"write port: {written}")
