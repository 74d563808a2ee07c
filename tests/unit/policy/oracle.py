"""Who may reach whom, the slow and obvious way: policy.md read aloud, over plain lists, with nothing remembered.

It shares no structure with `percale.policy`: the property test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import islice

from percale.model.clusternetworkpolicy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
)
from percale.model.meta import Object
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.selector import LabelSelector
from percale.model.subnet_lease import SubnetLease
from percale.policy.rule_terms import FlowProtocol


@dataclass(frozen=True)
class Question:
    """A new connection; `port` is None for ICMP."""

    source: str
    destination: str
    protocol: FlowProtocol
    port: int | None


@dataclass(frozen=True)
class End:
    """Who an address is."""

    address: str
    pod: Pod | None
    node: str | None


class Oracle:
    """Of these objects, in any order."""

    def __init__(self, objects: Iterable[Object]) -> None:
        everything = list(objects)
        self.pods = [each for each in everything if isinstance(each, Pod)]
        self.nodes = [each for each in everything if isinstance(each, Node)]
        self.leases = [each for each in everything if isinstance(each, SubnetLease)]
        self.policies = [each for each in everything if isinstance(each, NetworkPolicy)]
        self.cluster_policies = [each for each in everything if isinstance(each, ClusterNetworkPolicy)]
        self.namespaces = {each.metadata.name: each for each in everything if isinstance(each, Namespace)}

    def allowed(self, asked: Question) -> bool:
        """A connection needs the source's egress and the destination's ingress."""
        source, destination = self.who(asked.source), self.who(asked.destination)
        if source.pod is not None and source.address == destination.address:
            return True  # a pod reaches its own address always
        if destination.pod is not None and source.node is not None and destination.pod.spec.nodeName == source.node:
            return True  # a node reaches its own pods
        return self.side("egress", source, destination, destination, asked) and self.side(
            "ingress", destination, source, destination, asked
        )

    def who(self, address: str) -> End:
        claims = [
            pod
            for pod in self.pods
            if not pod.spec.hostNetwork
            and pod.status.phase not in ("Succeeded", "Failed")
            and any(ip_address(each) == ip_address(address) for each in pod.status.addresses)
        ]
        # On a clash the Running pod wins, then one that is not leaving, then the newest.
        claims.sort(
            key=lambda pod: (
                pod.status.phase == "Running",
                pod.metadata.deletionTimestamp is None,
                pod.metadata.creationTimestamp or "",
                pod.key,
            )
        )
        if claims:
            return End(address, claims[-1], None)
        for node in sorted(self.nodes, key=lambda each: each.metadata.name):  # of two that claim it, the first by name
            if address in [each.address for each in node.status.addresses]:
                return End(address, None, node.metadata.name)
        for lease in sorted(self.leases, key=lambda each: each.metadata.name):
            for subnet in (lease.spec.subnet, lease.spec.ipv6Subnet):
                if subnet is not None and ip_address(address) in list(islice(subnet, 2)):
                    return End(address, None, lease.spec.node)  # the tunnel's address, and the bridge's
        return End(address, None, None)

    def side(self, direction: str, subject: End, peer: End, destination: End, asked: Question) -> bool:
        """One end's policies: Admin, then NetworkPolicy, then Baseline, then allow."""
        pod = subject.pod
        if pod is None:
            return True
        admin = self.tier("Admin", direction, pod, peer, destination, asked)
        if admin is not None:
            return admin
        isolating = [
            policy
            for policy in self.policies
            if policy.metadata.namespace == pod.metadata.namespace
            and selected(policy.spec.podSelector, pod.metadata.labels)
            and direction in directions(policy)
        ]
        if isolating and peer.node is not None and peer.node == pod.spec.nodeName:
            return True  # of its own node: no NetworkPolicy denies it
        if isolating:
            return any(self.network_policy_allows(policy, direction, peer, destination, asked) for policy in isolating)
        baseline = self.tier("Baseline", direction, pod, peer, destination, asked)
        return baseline is None or baseline

    # NetworkPolicy

    def network_policy_allows(
        self, policy: NetworkPolicy, direction: str, peer: End, destination: End, asked: Question
    ) -> bool:
        rules: list[tuple[Sequence[NetworkPolicyPeer], Sequence[NetworkPolicyPort]]]
        if direction == "ingress":
            rules = [(rule.from_, rule.ports) for rule in policy.spec.ingress]
        else:
            rules = [(rule.to, rule.ports) for rule in policy.spec.egress]
        home = policy.metadata.namespace or "default"
        for peers, ports in rules:
            peer_fits = not peers or any(self.is_peer(each, home, peer) for each in peers)
            port_fits = not ports or any(port_of(each, destination, asked) for each in ports)
            if peer_fits and port_fits:
                return True
        return False

    def is_peer(self, peer: NetworkPolicyPeer, home: str, end: End) -> bool:
        if peer.ipBlock is not None:
            return within(end.address, peer.ipBlock.cidr) and not any(
                within(end.address, part) for part in peer.ipBlock.except_
            )
        if end.pod is None:
            return False
        namespace = end.pod.metadata.namespace or "default"
        if peer.namespaceSelector is None:
            if namespace != home:
                return False
        elif not selected(peer.namespaceSelector, self.labels_of(namespace)):
            return False
        return peer.podSelector is None or selected(peer.podSelector, end.pod.metadata.labels)

    def labels_of(self, namespace: str) -> dict[str, str]:
        there = self.namespaces.get(namespace)
        return {**(there.metadata.labels if there else {}), "kubernetes.io/metadata.name": namespace}

    # ClusterNetworkPolicy

    def tier(self, tier: str, direction: str, pod: Pod, peer: End, destination: End, asked: Question) -> bool | None:
        """First match wins; None when nothing matched, or a Pass did."""
        policies = [each for each in self.cluster_policies if each.spec.tier == tier and self.is_subject(each, pod)]
        for policy in sorted(policies, key=lambda each: (each.spec.priority, each.metadata.name)):
            rules: Sequence[ClusterNetworkPolicyIngressRule | ClusterNetworkPolicyEgressRule]
            rules = policy.spec.ingress if direction == "ingress" else policy.spec.egress
            for rule in rules:
                denies = rule.action == "Deny"
                peers = rule.from_ if isinstance(rule, ClusterNetworkPolicyIngressRule) else rule.to
                if not any(self.is_cluster_peer(each, peer, denies) for each in peers):
                    continue
                if rule.protocols and not any(
                    cluster_port_of(each, destination, asked, denies) for each in rule.protocols
                ):
                    continue
                return None if rule.action == "Pass" else not denies
        return None

    def is_subject(self, policy: ClusterNetworkPolicy, pod: Pod) -> bool:
        subject = policy.spec.subject
        namespace = self.labels_of(pod.metadata.namespace or "default")
        if subject.namespaces is not None:
            return selected(subject.namespaces, namespace)
        assert subject.pods is not None
        return selected(subject.pods.namespaceSelector, namespace) and selected(
            subject.pods.podSelector, pod.metadata.labels
        )

    def is_cluster_peer(
        self, peer: ClusterNetworkPolicyIngressPeer | ClusterNetworkPolicyEgressPeer, end: End, denies: bool
    ) -> bool:
        pod = end.pod
        namespace = self.labels_of(pod.metadata.namespace or "default") if pod else {}
        if peer.namespaces is not None:
            return pod is not None and selected(peer.namespaces, namespace)
        if peer.pods is not None:
            return (
                pod is not None
                and selected(peer.pods.namespaceSelector, namespace)
                and selected(peer.pods.podSelector, pod.metadata.labels)
            )
        if isinstance(peer, ClusterNetworkPolicyEgressPeer):
            if peer.nodes is not None:
                labels = [each.metadata.labels for each in self.nodes if each.metadata.name == end.node]
                return bool(labels) and selected(peer.nodes, labels[0])
            if peer.networks:
                return any(within(end.address, each) for each in peer.networks)
            if peer.domainNames:
                return False  # nobody here learned what a name resolves to
        return denies  # of a sort that nobody knows: it never opens, and always closes


def directions(policy: NetworkPolicy) -> Iterator[str]:
    """`policyTypes` decides, not the sections."""
    types = policy.spec.policyTypes
    if "Ingress" in types or not types:
        yield "ingress"
    if "Egress" in types or (not types and policy.spec.egress):
        yield "egress"


def selected(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """All are ANDed."""
    for key, value in selector.matchLabels.items():
        if key not in labels or labels[key] != value:
            return False
    for each in selector.matchExpressions:
        there = each.key in labels
        if each.operator == "In" and not (there and labels[each.key] in each.values):
            return False
        if each.operator == "NotIn" and there and labels[each.key] in each.values:
            return False
        if each.operator == "Exists" and not there:
            return False
        if each.operator == "DoesNotExist" and there:
            return False
    return True


def within(address: str, cidr: str) -> bool:
    """No match across families."""
    network = ip_network(cidr, strict=False)
    return ip_address(address) in network


def named(name: str, destination: End) -> list[tuple[str, int]]:
    """Protocol and number of the destination's own ports of this name."""
    if destination.pod is None:
        return []
    return [
        (port.protocol, port.containerPort)
        for container in destination.pod.spec.containers
        for port in container.ports
        if port.name == name
    ]


def port_of(port: NetworkPolicyPort, destination: End, asked: Question) -> bool:
    if asked.port is None or port.protocol != asked.protocol:
        return False
    if port.port is None:
        return True
    if isinstance(port.port, str):
        return (asked.protocol, asked.port) in named(port.port, destination)
    return port.port <= asked.port <= (port.endPort if port.endPort is not None else port.port)


def cluster_port_of(given: ClusterNetworkPolicyProtocol, destination: End, asked: Question, denies: bool) -> bool:
    if given.destinationNamedPort is not None:
        return (asked.protocol, asked.port) in named(given.destinationNamedPort, destination)
    for protocol, ports in (("TCP", given.tcp), ("UDP", given.udp), ("SCTP", given.sctp)):
        if ports is None:
            continue
        port = ports.destinationPort
        if port is None or (port.number is None and port.range is None):
            return denies
        if protocol != asked.protocol or asked.port is None:
            return False
        if port.range is not None:
            return port.range.start <= asked.port <= port.range.end
        return port.number == asked.port
    return denies
