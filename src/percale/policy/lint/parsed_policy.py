"""NetworkPolicy and ClusterNetworkPolicy in one form for the checks; every part knows the field in which it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import Network, parse_network
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
from percale.model.manifest.decode import ManifestEntry, Source
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from percale.model.selector import LabelSelector

Direction: TypeAlias = Literal["ingress", "egress"]

EVERYTHING = LabelSelector()
LAST_PORT = 65535


class Selection(Struct, frozen=True):
    """Pods, of the one namespace that is named or of those that a selector means. The path lead to the selectors."""

    namespaces: str | LabelSelector
    pods: LabelSelector
    namespaces_field: FieldPath = ()
    pods_field: FieldPath = ()


class Block(Struct, frozen=True):
    """Addresses."""

    network: Network
    exceptions: tuple[Network, ...] = ()


class Nodes(Struct, frozen=True):
    """The nodes' own addresses."""

    selector: LabelSelector


class Domains(Struct, frozen=True):
    """Names of hosts outside."""

    names: tuple[str, ...]


class Unknown(Struct, frozen=True):
    """A peer or a protocol of a newer API."""


class Peer(Struct, frozen=True):
    """One item of `from` or `to`; an item with several networks is several."""

    field: FieldPath
    means: Selection | Block | Nodes | Domains | Unknown


class Ports(Struct, frozen=True):
    """Port numbers of one protocol."""

    protocol: str
    first: int = 0
    last: int = LAST_PORT


class NamedPort(Struct, frozen=True):
    """`protocol` None: any."""

    name: str
    protocol: str | None


class Port(Struct, frozen=True):
    """One item of `ports` or `protocols`."""

    field: FieldPath
    means: Ports | NamedPort | Unknown


class Rule(Struct, frozen=True):
    """`peers` None: everybody. `ports` None: all traffic, ICMP too."""

    field: FieldPath
    direction: Direction
    action: Literal["Accept", "Deny", "Pass"]
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


class Policy(Struct, frozen=True):
    """`name` is `np:ns/name` or `cnp:name`. `rules` are those with an effect."""

    obj: NetworkPolicy | ClusterNetworkPolicy
    name: str
    source: Source
    tier: Literal["Admin", "NetworkPolicy", "Baseline"]
    priority: int
    subject: Selection
    isolates: tuple[Direction, ...]
    rules: tuple[Rule, ...]

    def rules_of(self, direction: Direction) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.direction == direction)


def policies_of(found: Iterable[ManifestEntry]) -> list[Policy]:
    """All policies among the objects, in their order."""
    return [policy for each in found if (policy := _policy(each.object, each.source)) is not None]


def _policy(obj: Object, source: Source) -> Policy | None:
    if isinstance(obj, NetworkPolicy):
        return _network_policy(obj, source)
    if isinstance(obj, ClusterNetworkPolicy):
        return _cluster_policy(obj, source)
    return None


def _network_policy(obj: NetworkPolicy, source: Source) -> Policy:
    namespace, spec = obj.metadata.namespace or "default", obj.spec
    isolates: tuple[Direction, ...] = (
        *(("ingress",) if "Ingress" in spec.types else ()),
        *(("egress",) if "Egress" in spec.types else ()),
    )
    rules = (
        *(_rule("ingress", index, rule.from_, rule.ports, namespace) for index, rule in enumerate(spec.ingress)),
        *(_rule("egress", index, rule.to, rule.ports, namespace) for index, rule in enumerate(spec.egress)),
    )
    subject = Selection(namespace, spec.podSelector, pods_field=("spec", "podSelector"))
    in_force = tuple(rule for rule in rules if rule.direction in isolates)
    return Policy(obj, f"np:{namespace}/{obj.metadata.name}", source, "NetworkPolicy", 0, subject, isolates, in_force)


def _rule(
    direction: Direction,
    index: int,
    peers: Iterable[NetworkPolicyPeer],
    ports: Iterable[NetworkPolicyPort],
    namespace: str,
) -> Rule:
    path = ("spec", direction, index)
    key = "from" if direction == "ingress" else "to"
    return Rule(
        path,
        direction,
        "Accept",
        tuple(_peer(peer, namespace, (*path, key, number)) for number, peer in enumerate(peers)) or None,
        tuple(Port((*path, "ports", number), _ports(port)) for number, port in enumerate(ports)) or None,
    )


def _peer(peer: NetworkPolicyPeer, namespace: str, path: FieldPath) -> Peer:
    if peer.ipBlock is not None:
        return Peer(path, Block(peer.ipBlock.network, peer.ipBlock.exceptions))
    where = peer.namespaceSelector if peer.namespaceSelector is not None else namespace
    pods = peer.podSelector or EVERYTHING
    return Peer(path, Selection(where, pods, (*path, "namespaceSelector"), (*path, "podSelector")))


def _ports(port: NetworkPolicyPort) -> Ports | NamedPort:
    if isinstance(port.port, str):
        return NamedPort(port.port, port.protocol)
    if port.port is None:
        return Ports(port.protocol)
    return Ports(port.protocol, port.port, port.endPort or port.port)


def _cluster_policy(obj: ClusterNetworkPolicy, source: Source) -> Policy:
    spec = obj.spec
    rules = (
        *(_cluster_rule("ingress", index, rule, rule.from_) for index, rule in enumerate(spec.ingress)),
        *(_cluster_rule("egress", index, rule, rule.to) for index, rule in enumerate(spec.egress)),
    )
    subject = _selection(spec.subject.namespaces, spec.subject.pods, ("spec", "subject"))
    return Policy(obj, f"cnp:{obj.metadata.name}", source, spec.tier, spec.priority, subject or _NOBODY, (), rules)


def _cluster_rule(
    direction: Direction,
    index: int,
    rule: ClusterNetworkPolicyIngressRule | ClusterNetworkPolicyEgressRule,
    peers: Iterable[ClusterNetworkPolicyIngressPeer | ClusterNetworkPolicyEgressPeer],
) -> Rule:
    path = ("spec", direction, index)
    key = "from" if direction == "ingress" else "to"
    ports = tuple(Port((*path, "protocols", number), _protocol(each)) for number, each in enumerate(rule.protocols))
    return Rule(
        path,
        direction,
        rule.action,
        tuple(part for number, peer in enumerate(peers) for part in _cluster_peers(peer, (*path, key, number))),
        ports or None,
    )


_NOBODY = Selection("", EVERYTHING)
"""The subject that no valid policy has."""


def _selection(namespaces: LabelSelector | None, pods: NamespacedPod | None, path: FieldPath) -> Selection | None:
    if namespaces is not None:
        return Selection(namespaces, EVERYTHING, (*path, "namespaces"), (*path, "namespaces"))
    if pods is not None:
        here = (*path, "pods")
        return Selection(pods.namespaceSelector, pods.podSelector, (*here, "namespaceSelector"), (*here, "podSelector"))
    return None


def _cluster_peers(
    peer: ClusterNetworkPolicyIngressPeer | ClusterNetworkPolicyEgressPeer, path: FieldPath
) -> Iterator[Peer]:
    selection = _selection(peer.namespaces, peer.pods, path)
    if selection is not None:
        yield Peer(path, selection)
    elif isinstance(peer, ClusterNetworkPolicyIngressPeer) or not peer.known:
        yield Peer(path, Unknown())
    elif peer.nodes is not None:
        yield Peer(path, Nodes(peer.nodes))
    elif peer.domainNames:
        yield Peer(path, Domains(peer.domainNames))
    else:
        for number, text in enumerate(peer.networks):
            yield Peer((*path, "networks", number), Block(parse_network(text)))


def _protocol(protocol: ClusterNetworkPolicyProtocol) -> Ports | NamedPort | Unknown:
    if protocol.destinationNamedPort is not None:
        return NamedPort(protocol.destinationNamedPort, None)
    for name, part in (("TCP", protocol.tcp), ("UDP", protocol.udp), ("SCTP", protocol.sctp)):
        if part is not None and part.destinationPort is not None:
            port = part.destinationPort
            if port.number is not None:
                return Ports(name, port.number, port.number)
            if port.range is not None:
                return Ports(name, port.range.start, port.range.end)
    return Unknown()
