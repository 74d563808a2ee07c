"""Does one rule's peer and port mean this flow? Called by `evaluator.py` for a verdict and `explain/` for the nearest rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

from percale.model.node import Node
from percale.policy.compiling import CompiledRule
from percale.policy.membership import Membership
from percale.policy.pods import PodFacts
from percale.policy.terms import Block, DomainTerm, FlowProtocol, NodeTerm, Peer, Port, PortSpan, Term, Unknown
from percale.policy.verdicts import Flow, Party


class Cluster:
    """Nodes by their addresses, and what names resolve to."""

    def __init__(self) -> None:
        self.labels: dict[str, Mapping[str, str]] = {}
        """Of nodes, by name."""
        self.addresses: dict[str, tuple[bytes, ...]] = {}
        """Of nodes, packed, by name."""
        self.names: dict[str, frozenset[bytes]] = {}
        """What a domain name resolves to, as somebody learned it."""
        self._owners: dict[bytes, set[str]] = {}
        """Nodes by address: a machine that came back under another name has left its old object behind."""

    def put_node(self, node: Node) -> bool:
        """Whether anything changed that policies look at."""
        name = node.metadata.name
        addresses = tuple(_packed(address.address for address in node.status.addresses))
        if self.labels.get(name) == node.metadata.labels and self.addresses.get(name) == addresses:
            return False
        self.remove_node(name)
        self.labels[name] = node.metadata.labels
        self.addresses[name] = addresses
        for address in addresses:
            self._owners.setdefault(address, set()).add(name)
        return True

    def remove_node(self, name: str) -> bool:
        """Whether it was there."""
        for address in set(self.addresses.pop(name, ())):
            self._owners[address].remove(name)
            if not self._owners[address]:
                del self._owners[address]
        return self.labels.pop(name, None) is not None

    def node_of(self, address: bytes) -> str | None:
        """The node that has this address; of two that claim it, the first by name."""
        return min(self._owners.get(address, ()), default=None)

    def addresses_of(self, term: NodeTerm) -> Iterator[bytes]:
        """The addresses of the nodes that a term means."""
        for name, labels in self.labels.items():
            if term.nodes.matches(labels):
                yield from self.addresses[name]

    def resolved(self, domain: str) -> Iterator[bytes]:
        """The addresses known of a domain name; `*.example.org` is every name below it."""
        if domain.startswith("*."):
            for known, found in self.names.items():
                if known.endswith(domain[1:]):
                    yield from found
        else:
            yield from self.names.get(domain, ())


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
            return party.node is not None and peer.nodes.matches(cluster.labels.get(party.node, {}))
        case DomainTerm():
            return party.address in cluster.resolved(peer.name)
        case Unknown():
            return denies
