"""ClusterNetworkPolicy. Source: policy.networking.k8s.io/v1alpha2 types.

A peer or protocol without a field that is known here is one of a newer API: an Accept or Pass rule goes without it, and a Deny
rule denies all peers or ports. That is decided here, once, for verdicts and kernel rules alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from percale.model.clusternetworkpolicy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
    NamespacedPod,
)
from percale.model.field_path import FieldPath
from percale.model.selector import LabelSelector
from percale.policy.compiled_policy import PEERS_FIELD, CompiledPolicy, CompiledRule, RuleRef
from percale.policy.kinds.policy_kind import PolicyKind
from percale.policy.rule_terms import (
    Block,
    DomainTerm,
    NodeSelectorTerm,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
)

_Rule: TypeAlias = ClusterNetworkPolicyEgressRule | ClusterNetworkPolicyIngressRule
_Peer: TypeAlias = ClusterNetworkPolicyEgressPeer | ClusterNetworkPolicyIngressPeer


class ClusterNetworkPolicyKind(PolicyKind[ClusterNetworkPolicy]):
    """Administrators' policies, in the tiers before and after NetworkPolicies; the first rule that matches decides."""

    prefix = "cnp"
    object_type = ClusterNetworkPolicy

    def compile(self, policy: ClusterNetworkPolicy) -> CompiledPolicy:
        key = self.key(policy.key)
        spec = policy.spec
        field, subject = _selected(spec.subject.namespaces, spec.subject.pods or NamespacedPod())
        return CompiledPolicy(
            key=key,
            tier=spec.tier,
            priority=spec.priority,
            subject=subject,
            subject_field=("spec", "subject", field),
            isolates=(),
            egress=tuple(_rule(RuleRef(key, "egress", index), rule, rule.to) for index, rule in enumerate(spec.egress)),
            ingress=tuple(
                _rule(RuleRef(key, "ingress", index), rule, rule.from_) for index, rule in enumerate(spec.ingress)
            ),
        )


def _rule(ref: RuleRef, rule: _Rule, given: Sequence[_Peer]) -> CompiledRule:
    peers_field = PEERS_FIELD[ref.direction]
    peers: list[Peer] = []
    peer_fields: list[FieldPath] = []
    unknown_peers: list[FieldPath] = []
    for index, item in enumerate(given):
        before = len(peers)
        for field, peer in _peers(item):
            peers.append(peer)
            peer_fields.append((peers_field, index, *field))
        if len(peers) == before:
            unknown_peers.append((peers_field, index))
    ports = [(("protocols", index), _port(protocol)) for index, protocol in enumerate(rule.protocols)]
    known_ports = [(field, port) for field, port in ports if port is not None]
    unknown_ports = [field for field, port in ports if port is None]
    denies = rule.action == "Deny"
    every_peer = denies and bool(unknown_peers)
    every_port = not rule.protocols or (denies and bool(unknown_ports))
    return CompiledRule(
        ref,
        rule.action,
        None if every_peer else tuple(peers),
        None if every_port else tuple(port for _, port in known_ports),
        () if every_peer else tuple(peer_fields),
        () if every_port else tuple(field for field, _ in known_ports),
        (*unknown_peers, *unknown_ports),
    )


def _selected(namespaces: LabelSelector | None, pods: NamespacedPod) -> tuple[str, PodSelectorTerm]:
    """The field that is set, and the pods that it selects."""
    if namespaces is not None:
        return "namespaces", PodSelectorTerm(namespaces)
    return "pods", PodSelectorTerm(pods.namespaceSelector, pods.podSelector)


def _peers(peer: _Peer) -> Iterator[tuple[FieldPath, Peer]]:
    """The peers of one item, with their fields within it; none if it is of a newer API."""
    if peer.namespaces is not None or peer.pods is not None:
        field, term = _selected(peer.namespaces, peer.pods or NamespacedPod())
        yield (field,), term
    elif isinstance(peer, ClusterNetworkPolicyEgressPeer):
        if peer.nodes is not None:
            yield ("nodes",), NodeSelectorTerm(peer.nodes)
        for index, cidr in enumerate(peer.networks):
            yield ("networks", index), Block(cidr)
        for index, name in enumerate(peer.domainNames):
            yield ("domainNames", index), DomainTerm(name.lower().removesuffix("."))


def _port(given: ClusterNetworkPolicyProtocol) -> Port | None:
    """None if it is of a newer API."""
    for protocol, ports in (("TCP", given.tcp), ("UDP", given.udp), ("SCTP", given.sctp)):
        if ports is None:
            continue
        port = ports.destinationPort
        if port is not None and port.range is not None:
            return PortSpan(protocol, port.range.start, port.range.end)
        if port is not None and port.number is not None:
            return PortSpan(protocol, port.number, port.number)
        return None
    return PortName(given.destinationNamedPort) if given.destinationNamedPort is not None else None
