"""Compiles NetworkPolicy and ClusterNetworkPolicy to rules of one form. Called by `evaluator.py`.

The API's defaults become explicit here: missing lists, isolated directions, ports without a protocol. Matching against pods
happens later (`flow_match.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.clusternetworkpolicy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
    NamespacedPod,
    ProtocolPorts,
)
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from percale.policy.rule_terms import (
    EVERYTHING,
    Block,
    Direction,
    DomainTerm,
    NodeSelectorTerm,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
    Unknown,
)

Action: TypeAlias = Literal["Allow", "Deny", "Pass"]
Tier: TypeAlias = Literal["Admin", "NetworkPolicy", "Baseline"]

DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")


class PolicyKey(NamedTuple):
    """Identifies a policy; as text `np:namespace/name` or `cnp:name`."""

    kind: Literal["np", "cnp"]
    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.namespace}/{self.name}" if self.namespace else f"{self.kind}:{self.name}"


class RuleRef(NamedTuple):
    """Identifies a rule of a policy; as text `np:ns/name#ingress[0]`, in nft's comments too."""

    policy: PolicyKey
    direction: Direction
    position: int

    def __str__(self) -> str:
        return f"{self.policy}#{self.direction}[{self.position}]"


class CompiledRule(Struct, frozen=True):
    """`peers` None: everybody. `ports` None: all ports of every protocol, ICMP too. Empty: nobody, none."""

    ref: RuleRef
    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


class CompiledPolicy(Struct, frozen=True):
    """`isolates` are the directions in which a NetworkPolicy denies what no rule allows; a cluster policy's tiers do not."""

    key: PolicyKey
    tier: Tier
    priority: int
    subject: PodSelectorTerm
    isolates: tuple[Direction, ...]
    egress: tuple[CompiledRule, ...]
    ingress: tuple[CompiledRule, ...]

    def rules(self, direction: Direction) -> tuple[CompiledRule, ...]:
        """The rules of one direction, in their order."""
        return self.egress if direction == "egress" else self.ingress

    @property
    def terms(self) -> Iterator[PodSelectorTerm]:
        """The pod selectors among its rules' peers."""
        for rule in (*self.egress, *self.ingress):
            for peer in rule.peers or ():
                if isinstance(peer, PodSelectorTerm):
                    yield peer

    @property
    def domains(self) -> Iterator[str]:
        """The domain names to resolve; wildcards match the names resolved for these."""
        for rule in self.egress:
            for peer in rule.peers or ():
                if isinstance(peer, DomainTerm) and not peer.name.startswith("*."):
                    yield peer.name


def compile_network_policy(policy: NetworkPolicy) -> CompiledPolicy:
    """Source: networking.k8s.io/v1 types and defaults."""
    namespace = policy.metadata.namespace or "default"
    key = PolicyKey("np", namespace, policy.metadata.name)
    spec = policy.spec
    isolates: tuple[Direction, ...] = tuple(each for each in DIRECTIONS if each.capitalize() in spec.types)

    def rules(
        direction: Direction,
        given: Iterable[tuple[tuple[NetworkPolicyPeer, ...], tuple[NetworkPolicyPort, ...]]],
    ) -> tuple[CompiledRule, ...]:
        if direction not in isolates:
            return ()
        return tuple(
            CompiledRule(
                RuleRef(key, direction, index),
                "Allow",
                tuple(_peer(peer, namespace) for peer in peers) or None,
                tuple(map(_port, ports)) or None,
            )
            for index, (peers, ports) in enumerate(given)
        )

    return CompiledPolicy(
        key=key,
        tier="NetworkPolicy",
        priority=0,
        subject=PodSelectorTerm(namespace, spec.podSelector),
        isolates=isolates,
        egress=rules("egress", ((rule.to, rule.ports) for rule in spec.egress)),
        ingress=rules("ingress", ((rule.from_, rule.ports) for rule in spec.ingress)),
    )


def _peer(peer: NetworkPolicyPeer, namespace: str) -> Peer:
    if peer.ipBlock is not None:
        return Block(peer.ipBlock.cidr, peer.ipBlock.except_)
    where = peer.namespaceSelector if peer.namespaceSelector is not None else namespace
    return PodSelectorTerm(where, peer.podSelector or EVERYTHING)


def _port(port: NetworkPolicyPort) -> Port:
    if isinstance(port.port, str):
        return PortName(port.port, port.protocol)
    if port.port is None:
        return PortSpan(port.protocol)
    return PortSpan(port.protocol, port.port, port.endPort or port.port)


def compile_cluster_policy(policy: ClusterNetworkPolicy) -> CompiledPolicy:
    """Source: policy.networking.k8s.io/v1alpha2 types. What a newer version adds fails closed."""
    key = PolicyKey("cnp", None, policy.metadata.name)
    spec = policy.spec
    subject = spec.subject
    return CompiledPolicy(
        key=key,
        tier=spec.tier,
        priority=spec.priority,
        subject=PodSelectorTerm(subject.namespaces)
        if subject.namespaces is not None
        else _pods(subject.pods or NamespacedPod()),
        isolates=(),
        egress=tuple(
            _cluster_rule(
                RuleRef(key, "egress", position), rule, (each for peer in rule.to for each in _egress_peers(peer))
            )
            for position, rule in enumerate(spec.egress)
        ),
        ingress=tuple(
            _cluster_rule(RuleRef(key, "ingress", position), rule, map(_ingress_peer, rule.from_))
            for position, rule in enumerate(spec.ingress)
        ),
    )


def _cluster_rule(
    ref: RuleRef, rule: ClusterNetworkPolicyEgressRule | ClusterNetworkPolicyIngressRule, peers: Iterable[Peer]
) -> CompiledRule:
    action: Action = "Allow" if rule.action == "Accept" else rule.action
    ports: tuple[Port, ...] | None = tuple(port for each in rule.protocols for port in _cluster_ports(each))
    if not rule.protocols or (action == "Deny" and not all(each.known for each in rule.protocols)):
        ports = None
    return CompiledRule(ref, action, tuple(peers), ports)


def _pods(pods: NamespacedPod) -> PodSelectorTerm:
    return PodSelectorTerm(pods.namespaceSelector, pods.podSelector)


def _ingress_peer(peer: ClusterNetworkPolicyIngressPeer) -> Peer:
    if peer.namespaces is not None:
        return PodSelectorTerm(peer.namespaces)
    return _pods(peer.pods) if peer.pods is not None else Unknown()


def _egress_peers(peer: ClusterNetworkPolicyEgressPeer) -> Iterator[Peer]:
    if peer.namespaces is not None:
        yield PodSelectorTerm(peer.namespaces)
    elif peer.pods is not None:
        yield _pods(peer.pods)
    elif peer.nodes is not None:
        yield NodeSelectorTerm(peer.nodes)
    elif peer.known:
        yield from map(Block, peer.networks)
        yield from (DomainTerm(name.lower().removesuffix(".")) for name in peer.domainNames)
    else:
        yield Unknown()


def _cluster_ports(given: ClusterNetworkPolicyProtocol) -> Iterator[Port]:
    """The ports of the known protocols; none of an unknown one."""
    for protocol, ports in (("TCP", given.tcp), ("UDP", given.udp), ("SCTP", given.sctp)):
        if ports is not None:
            yield _cluster_span(protocol, ports)
    if given.destinationNamedPort is not None:
        yield PortName(given.destinationNamedPort)


def _cluster_span(protocol: str, ports: ProtocolPorts) -> PortSpan:
    port = ports.destinationPort
    if port is None:
        return PortSpan(protocol)
    if port.range is not None:
        return PortSpan(protocol, port.range.start, port.range.end)
    return PortSpan(protocol, port.number or 0, port.number or 65535)
