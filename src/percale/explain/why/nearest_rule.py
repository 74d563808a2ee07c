"""For a side that denies: the rule that comes nearest to allowing it, and what differs.

Called by `connection.py`. Each rule is asked what of its peers and of its ports does not fit; the fewest differences win, and
among equals the first rule. `smallest_fix.py` proposes what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import TypeAlias

from msgspec import Struct

from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.policy.compiled_policy import TIERS, CompiledRule, RuleRef
from percale.policy.evaluator import Evaluator, PolicyClass
from percale.policy.flow_match import peer_matches, ports_match, rule_matches
from percale.policy.rule_terms import (
    Block,
    DomainTerm,
    Labels,
    NodeSelectorTerm,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
)
from percale.policy.verdict import Decision, Flow, FlowEnd


class Difference(Struct, frozen=True):
    """Why a rule does not mean a flow."""

    what: str
    weight: int = 1
    """How far away it is from being allowed."""
    label: tuple[str, str] | None = None
    """The label that the pod lacks, where that is all."""


AddressText: TypeAlias = Callable[[FlowEnd], str]
"""How an end's address is told: one that is made up is not quoted."""


def plain_address(end: FlowEnd) -> str:
    """As it is."""
    return str(ip_address(end.address))


Differences: TypeAlias = tuple[Difference, ...]


class Nearest(Struct, frozen=True):
    """A rule that would have allowed a flow but for these."""

    rule: RuleRef
    differences: Differences

    @property
    def what(self) -> str:
        return "; ".join(each.what for each in self.differences)

    @property
    def weight(self) -> int:
        return _weight(self.differences)


def nearest(
    evaluator: Evaluator, flow: Flow, decision: Decision, address_text: AddressText = plain_address
) -> Nearest | None:
    """None: no rule comes into question, or nothing is denied."""
    subject = flow.source if decision.direction == "egress" else flow.destination
    if decision.allowed or subject.pod is None:
        return None
    peer = flow.destination if decision.direction == "egress" else flow.source
    policies = evaluator.class_of(evaluator.selector_index.pod_ids[subject.pod.key])
    found = [
        Nearest(rule.ref, (*_peer_differences(rule, peer, evaluator, address_text), *_port_differences(rule, flow)))
        for rule in _candidates(policies, decision, flow, peer, evaluator)
    ]
    return min(found, key=lambda each: each.weight, default=None)


def _candidates(
    policies: PolicyClass, decision: Decision, flow: Flow, peer: FlowEnd, evaluator: Evaluator
) -> Iterator[CompiledRule]:
    """The rules that allow, and are asked before the verdict falls or another rule passes the flow to the next tier."""
    for tier, rules in zip(TIERS, policies.rules_by_tier(decision.direction), strict=True):
        for rule in rules:
            if rule.ref == decision.rule:
                return
            if rule.action == "Pass" and rule_matches(rule, peer, flow, evaluator.selector_index, evaluator.node_index):
                break
            if rule.action == "Accept":
                yield rule
        if tier == "NetworkPolicy" and decision.why == "isolated":
            return


def _weight(differences: Differences) -> int:
    return sum(each.weight for each in differences)


# Peers


def _peer_differences(rule: CompiledRule, end: FlowEnd, evaluator: Evaluator, address_text: AddressText) -> Differences:
    """Of the peer that is nearest."""
    if rule.peers is None or any(
        peer_matches(peer, end, evaluator.selector_index, evaluator.node_index) for peer in rule.peers
    ):
        return ()
    each = (tuple(_from_peer(peer, end, evaluator, address_text)) for peer in rule.peers)
    return min(each, key=_weight, default=(Difference("it allows a sort of peer that is not known here", weight=3),))


def _from_peer(peer: Peer, end: FlowEnd, evaluator: Evaluator, address_text: AddressText) -> Iterator[Difference]:
    match peer:
        case PodSelectorTerm():
            yield from _from_term(peer, end, evaluator)
        case Block():
            yield _from_block(peer, end, address_text(end))
        case NodeSelectorTerm():
            if end.node is None:
                yield Difference(f"it allows nodes, {end if end.pod is None else end.pod.key} is none", 3)
            else:
                labels = evaluator.node_index.labels.get(end.node, {})
                yield from (Difference(what) for what, _ in _from_selector(peer.nodes, labels, f"node {end.node}"))
        case DomainTerm():
            yield Difference(f"it allows {peer.name}, which does not resolve to {address_text(end)}", 3)


def _from_term(term: PodSelectorTerm, end: FlowEnd, evaluator: Evaluator) -> Iterator[Difference]:
    pod = end.pod
    if pod is None:
        who = f"{end} is a node" if end.node is not None else f"{end} is no pod"
        yield Difference(f"it allows pods{_of(term.pods)}, {who}", 3)
        return
    if isinstance(term.namespaces, str):
        if term.namespaces != pod.namespace:
            what = f"it allows pods of namespace {term.namespaces}, {pod.key} is in {pod.namespace}"
            yield Difference(what, 2)
    else:
        labels = evaluator.selector_index.labels_of(pod.namespace)
        for what, _ in _from_selector(term.namespaces, labels, "it"):
            yield Difference(f"namespace {pod.namespace} is not selected: {what}")
    for what, label in _from_selector(term.pods, pod.labels, str(pod.key)):
        yield Difference(f"it allows pods{_of(term.pods)}, {what}", label=label)


def _from_selector(selector: LabelSelector, labels: Labels, who: str) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """What of the labels does not fit, and the label that is missing, where that is all."""
    wanted = [
        *(
            LabelSelectorRequirement(key=key, operator="In", values=(value,))
            for key, value in selector.matchLabels.items()
        ),
        *selector.matchExpressions,
    ]
    for each in wanted:
        if not each.matches(labels):
            yield _from_requirement(each, labels.get(each.key), who)


def _from_requirement(
    wanted: LabelSelectorRequirement, value: str | None, who: str
) -> tuple[str, tuple[str, str] | None]:
    key = wanted.key
    if value is None:
        first = wanted.values[0] if wanted.values else "true"
        lacks = f"{key}={first}" if len(wanted.values) == 1 else key
        return f"{who} lacks {lacks}" if who == "it" else f"{who} has no label {lacks}", (key, first)
    if wanted.operator == "In":
        return f"{who} has {key}={value}, not {' or '.join(wanted.values)}", None
    return f"{who} has {key}={value}", None


def _of(selector: LabelSelector) -> str:
    """` with access=true`; nothing for every pod."""
    words = [f"{key}={value}" for key, value in selector.matchLabels.items()]
    words += [
        {"Exists": each.key, "DoesNotExist": f"no {each.key}"}.get(each.operator) or _set(each)
        for each in selector.matchExpressions
    ]
    return f" with {' and '.join(words)}" if words else ""


def _set(requirement: LabelSelectorRequirement) -> str:
    word = "in" if requirement.operator == "In" else "not in"
    return f"{requirement.key} {word} ({', '.join(requirement.values)})"


def _from_block(block: Block, end: FlowEnd, text: str) -> Difference:
    address = ip_address(end.address)
    weight = 1 if end.pod is None else 2
    if address.version != block.network.version:
        return Difference(f"it allows {block.cidr}, {text} is IPv{address.version}", 3)
    for excluded in block.excluded:
        if excluded.version == address.version and address in excluded:
            return Difference(f"{text} is in the except {excluded} of {block.cidr}", weight)
    return Difference(f"it allows {block.cidr}, {text} is not in it", weight)


# Ports


def _port_differences(rule: CompiledRule, flow: Flow) -> Differences:
    """Of the port that is nearest."""
    if ports_match(rule, flow.protocol, flow.port, flow.destination.pod) or rule.ports is None:
        return ()
    if not rule.ports:
        return (Difference("it means no port that is known here", weight=3),)
    if flow.port is None:
        return (Difference(f"it allows {_listed(rule.ports)}, ICMP has no port", weight=3),)
    each = sorted(rule.ports, key=lambda port: _distance(port, flow))
    return (Difference(_from_port(each[0], flow, each)),)


def _distance(port: Port, flow: Flow) -> tuple[bool, bool]:
    protocol_differs = port.protocol not in ("", flow.protocol)
    number_differs = not isinstance(port, PortSpan) or flow.port is None or flow.port not in port
    return (protocol_differs and number_differs, protocol_differs)


def _from_port(port: Port, flow: Flow, ports: Iterable[Port]) -> str:
    asked = f"you asked {flow.port}"
    if isinstance(port, PortName):
        return _from_name(port, flow.destination, asked)
    if port.protocol != flow.protocol:
        if flow.port is not None and flow.port in port:
            return f"it allows {port.protocol}, you asked {flow.protocol}"
        return f"it allows {_listed(ports)}, {asked}/{flow.protocol}"
    return f"it allows {_listed(each for each in ports if each.protocol == flow.protocol)}, {asked}"


def _from_name(port: PortName, destination: FlowEnd, asked: str) -> str:
    pod = destination.pod
    if pod is None:
        return f"it allows the named port {port.name}, and {destination} is no pod that could have it"
    numbers = [each for each in pod.ports if each.name == port.name]
    if not numbers:
        return f"it allows the named port {port.name}, {pod.key} has none of this name"
    meant = ", ".join(f"{each.number}/{each.protocol}" for each in numbers)
    return f"named port {port.name} is {meant} on {pod.key}, {asked}"


def _listed(ports: Iterable[Port]) -> str:
    """`port 80`, `ports 80 and 443/UDP`."""
    words = [_spelled(port) for port in ports]
    if len(words) == 1 and " " in words[0]:
        return words[0]
    return f"port{'s' if len(words) > 1 or (words[0][0].isdigit() and '-' in words[0]) else ''} {' and '.join(words)}"


def _spelled(port: Port) -> str:
    suffix = f"/{port.protocol}" if port.protocol not in ("", "TCP") else ""
    if isinstance(port, PortName):
        return f"{port.name}{suffix}"
    if port.first <= 1 and port.last == 65535:
        return f"all {port.protocol} ports"
    return f"{port.first}{suffix}" if port.first == port.last else f"{port.first}-{port.last}{suffix}"
