"""Matches one rule's peers and ports against a flow: for a verdict (`evaluator.py`) and the nearest rule (`explain/`)."""

from __future__ import annotations

from percale.policy.compiled_policy import CompiledRule
from percale.policy.node_index import NodeIndex
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import (
    Block,
    DomainTerm,
    FlowProtocol,
    NodeSelectorTerm,
    Peer,
    PodSelectorTerm,
    PortName,
)
from percale.policy.selector_index import SelectorIndex
from percale.policy.verdict import Flow, FlowEnd


def rule_matches(
    rule: CompiledRule, peer: FlowEnd, flow: Flow, selector_index: SelectorIndex, node_index: NodeIndex
) -> bool:
    """Whether the rule matches the flow. Ports are the destination's, in both directions."""
    return ports_match(rule, flow.protocol, flow.port, flow.destination.pod) and (
        rule.peers is None
        or peer.address in rule.addresses
        or any(peer_matches(each, peer, selector_index, node_index) for each in rule.selectors)
    )


def ports_match(rule: CompiledRule, protocol: FlowProtocol, port: int | None, destination: PodFacts | None) -> bool:
    """Whether one of the rule's ports matches; ICMP has none."""
    if rule.ports is None:
        return True
    if port is None:
        return False
    if protocol in rule.numbers and port in rule.numbers[protocol]:
        return True
    return (
        bool(rule.port_names)
        and destination is not None
        and any(
            named.number == port
            and named.protocol == protocol
            and not rule.port_names.isdisjoint((PortName(named.name), PortName(named.name, protocol)))
            for named in destination.ports
        )
    )


def peer_matches(peer: Peer, end: FlowEnd, selector_index: SelectorIndex, node_index: NodeIndex) -> bool:
    """Whether the peer matches this end."""
    match peer:
        case PodSelectorTerm():
            return end.pod is not None and selector_index.matches(peer, end.pod)
        case Block():
            return end.address in peer
        case NodeSelectorTerm():
            labels = node_index.labels.get(end.node) if end.node is not None else None
            return labels is not None and peer.nodes.matches(labels)
        case DomainTerm():
            return end.address in node_index.domain_addresses(peer.name)
