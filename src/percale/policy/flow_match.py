"""Does one rule's peer and port mean this flow? Called by `evaluator.py` for a verdict and `explain/` for the nearest rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

from percale.ipam.address_pool import gateway
from percale.ipam.subnet_plan import subnets_of
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.policy.compiler import CompiledRule
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Block, DomainTerm, FlowProtocol, NodeTerm, Peer, Port, PortSpan, Term, Unknown
from percale.policy.selector_index import Membership
from percale.policy.verdict import Flow, Party


class Cluster:
    """Nodes by their addresses, in the pod network too, and what names resolve to."""

    def __init__(self) -> None:
        self.labels: dict[str, Mapping[str, str]] = {}
        """Of nodes, by name."""
        self.addresses: dict[str, tuple[bytes, ...]] = {}
        """Of nodes, packed, by name."""
        self.names: dict[str, frozenset[bytes]] = {}
        """What a domain name resolves to, as somebody learned it."""
        self._leased: dict[str, tuple[str, tuple[bytes, ...]]] = {}
        """By lease: its node, and the addresses that this has in its own subnets."""
        self._owners: dict[bytes, set[tuple[str, str]]] = {}
        """By address: the lease that says so, "" for a Node object, and the node. A machine that came back under another name
        has left its old object behind."""

    @property
    def known(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """The objects that it was told of."""
        yield from ((Node, ObjectKey(None, name)) for name in self.labels)
        yield from ((SubnetLease, ObjectKey(None, name)) for name in self._leased)

    def put(self, obj: Node | SubnetLease) -> bool:
        """Whether anything changed that policies look at."""
        return self._put_node(obj) if isinstance(obj, Node) else self._put_lease(obj)

    def remove(self, kind: type[Object], name: str) -> bool:
        """The Node or SubnetLease is gone; whether it was there."""
        return self._remove_node(name) if kind is Node else self._remove_lease(name)

    def _put_node(self, node: Node) -> bool:
        name = node.metadata.name
        addresses = tuple(_packed(address.address for address in node.status.addresses))
        if self.labels.get(name) == node.metadata.labels and self.addresses.get(name) == addresses:
            return False
        self._remove_node(name)
        self.labels[name] = node.metadata.labels
        self.addresses[name] = addresses
        self._own(addresses, ("", name))
        return True

    def _remove_node(self, name: str) -> bool:
        self._disown(self.addresses.pop(name, ()), ("", name))
        return self.labels.pop(name, None) is not None

    def _put_lease(self, lease: SubnetLease) -> bool:
        name, node = lease.metadata.name, lease.spec.node
        leased = (node, tuple(_node_addresses(lease.spec)))
        if self._leased.get(name) == leased:
            return False
        self._remove_lease(name)
        self._leased[name] = leased
        self._own(leased[1], (name, node))
        return True

    def _remove_lease(self, name: str) -> bool:
        node, addresses = self._leased.pop(name, ("", ()))
        self._disown(addresses, (name, node))
        return bool(addresses)

    def _own(self, addresses: Iterable[bytes], owner: tuple[str, str]) -> None:
        for address in addresses:
            self._owners.setdefault(address, set()).add(owner)

    def _disown(self, addresses: Iterable[bytes], owner: tuple[str, str]) -> None:
        for address in set(addresses):
            self._owners[address].remove(owner)
            if not self._owners[address]:
                del self._owners[address]

    def node_of(self, address: bytes) -> str | None:
        """The node that has this address. Of two that claim it the one whose object says so, or the first by name."""
        return min(self._owners.get(address, ()), default=("", None))[1]

    @property
    def leased(self) -> Iterator[bytes]:
        """What nodes have in the pod network: no pod's, and no Node object says it."""
        for _, addresses in self._leased.values():
            yield from addresses

    def addresses_of(self, term: NodeTerm) -> Iterator[bytes]:
        """The addresses of the nodes that a term means."""
        meant = {name for name, labels in self.labels.items() if term.nodes.matches(labels)}
        return (address for address in self._owners if self.node_of(address) in meant)

    def resolved(self, domain: str) -> Iterator[bytes]:
        """The addresses known of a domain name; `*.example.org` is every name below it."""
        if domain.startswith("*."):
            for known, found in self.names.items():
                if known.endswith(domain[1:]):
                    yield from found
        else:
            yield from self.names.get(domain, ())


def _node_addresses(spec: SubnetLeaseSpec) -> Iterator[bytes]:
    """What is never a pod's: the first address, the tunnel's, and the second, the bridge's."""
    for subnet in subnets_of(spec):
        yield subnet.network_address.packed
        yield gateway(subnet).packed


def _packed(texts: Iterable[str]) -> Iterable[bytes]:
    """A node's addresses; a host name among them is none."""
    for text in texts:
        try:
            yield ip_address(text).packed
        except ValueError:
            continue


def matches(rule: CompiledRule, peer: Party, flow: Flow, members: Membership, cluster: Cluster) -> bool:
    """The rule means this flow. Ports are the destination's, in both directions."""
    return (rule.ports is None or has_port(rule.ports, flow.protocol, flow.port, flow.destination.pod)) and (
        rule.peers is None
        or any(is_peer(each, peer, members, cluster, denies=rule.action == "Deny") for each in rule.peers)
    )


def has_port(ports: Iterable[Port], protocol: FlowProtocol, port: int | None, destination: PodFacts | None) -> bool:
    """One of these ports is meant; ICMP has none."""
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


def is_peer(peer: Peer, party: Party, members: Membership, cluster: Cluster, *, denies: bool = False) -> bool:
    """The party is meant. What a version of ours does not know never opens, and closes (`denies`)."""
    match peer:
        case Term():
            return party.pod is not None and members.matches(peer, party.pod)
        case Block():
            return party.address in peer
        case NodeTerm():
            labels = cluster.labels.get(party.node) if party.node is not None else None
            return labels is not None and peer.nodes.matches(labels)
        case DomainTerm():
            return party.address in cluster.resolved(peer.name)
        case Unknown():
            return denies
