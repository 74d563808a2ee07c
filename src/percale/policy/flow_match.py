"""Matches one rule's peers and ports against a flow: for a verdict (`evaluator.py`) and the nearest rule (`explain/`)."""

from __future__ import annotations

from collections.abc import Iterable

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
    Port,
    PortSpan,
)
from percale.policy.selector_index import SelectorIndex
from percale.policy.verdict import Flow, FlowEnd


def rule_matches(
    rule: CompiledRule, peer: FlowEnd, flow: Flow, selector_index: SelectorIndex, node_index: NodeIndex
) -> bool:
    """Whether the rule matches the flow. Ports are the destination's, in both directions."""
    return (rule.ports is None or ports_match(rule.ports, flow.protocol, flow.port, flow.destination.pod)) and (
        rule.peers is None or any(peer_matches(each, peer, selector_index, node_index) for each in rule.peers)
    )


def ports_match(ports: Iterable[Port], protocol: FlowProtocol, port: int | None, destination: PodFacts | None) -> bool:
    """Whether one of these ports matches; ICMP has none."""
    if port is None:
        return False
    for each in ports:
        if isinstance(each, PortSpan):
            if each.protocol == protocol and each.first <= port <= each.last:
                return True
        elif destination is not None and any(
            named.number == port
            and named.name == each.name
            and named.protocol == protocol
            and each.protocol in ("", protocol)
            for named in destination.ports
        ):
            return True
    return False


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
