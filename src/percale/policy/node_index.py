"""Nodes by the addresses that they own, and what domain names resolve to. Part of the evaluator's state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

from percale.ipam.address_pool import gateway
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.policy.rule_terms import NodeSelectorTerm


class NodeIndex:
    """Nodes by their addresses (in the pod network too), and resolved domain names."""

    def __init__(self) -> None:
        self.labels: dict[str, Mapping[str, str]] = {}
        """Of nodes, by name."""
        self.addresses: dict[str, tuple[bytes, ...]] = {}
        """Of nodes, packed, by name."""
        self.resolved_names: dict[str, frozenset[bytes]] = {}
        """Packed addresses by domain name, as last resolved."""
        self._leased: dict[str, tuple[str, tuple[bytes, ...]]] = {}
        """By lease: its node, and the node's addresses in its own subnets."""
        self._owners: dict[bytes, set[tuple[str, str]]] = {}
        """By address: (lease or "" for a Node object, node). A machine that was renamed may have left its old object."""

    @property
    def object_keys(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """Kind and key of every object that it has."""
        yield from ((Node, ObjectKey(None, name)) for name in self.labels)
        yield from ((SubnetLease, ObjectKey(None, name)) for name in self._leased)

    def put(self, obj: Node | SubnetLease) -> bool:
        """A Node or SubnetLease is new or changed; whether that can affect policies."""
        return self._put_node(obj) if isinstance(obj, Node) else self._put_lease(obj)

    def remove(self, kind: type[Object], name: str) -> bool:
        """A Node or SubnetLease was deleted; whether it was known."""
        return self._remove_node(name) if kind is Node else self._remove_lease(name)

    def _put_node(self, node: Node) -> bool:
        name = node.metadata.name
        addresses = tuple(_packed(address.address for address in node.status.addresses))
        if self.labels.get(name) == node.metadata.labels and self.addresses.get(name) == addresses:
            return False
        self._remove_node(name)
        self.labels[name] = node.metadata.labels
        self.addresses[name] = addresses
        self._claim(addresses, ("", name))
        return True

    def _remove_node(self, name: str) -> bool:
        self._release(self.addresses.pop(name, ()), ("", name))
        return self.labels.pop(name, None) is not None

    def _put_lease(self, lease: SubnetLease) -> bool:
        name, node = lease.metadata.name, lease.spec.node
        lease_addresses = (node, tuple(_node_addresses(lease.spec)))
        if self._leased.get(name) == lease_addresses:
            return False
        self._remove_lease(name)
        self._leased[name] = lease_addresses
        self._claim(lease_addresses[1], (name, node))
        return True

    def _remove_lease(self, name: str) -> bool:
        node, addresses = self._leased.pop(name, ("", ()))
        self._release(addresses, (name, node))
        return bool(addresses)

    def _claim(self, addresses: Iterable[bytes], owner: tuple[str, str]) -> None:
        for address in addresses:
            self._owners.setdefault(address, set()).add(owner)

    def _release(self, addresses: Iterable[bytes], owner: tuple[str, str]) -> None:
        for address in set(addresses):
            self._owners[address].remove(owner)
            if not self._owners[address]:
                del self._owners[address]

    def node_of(self, address: bytes) -> str | None:
        """The node that owns this address. Node objects win over leases, then the first by name."""
        return min(self._owners.get(address, ()), default=("", None))[1]

    @property
    def lease_addresses(self) -> Iterator[bytes]:
        """The nodes' addresses in the pod network, which Node objects do not list."""
        for _, addresses in self._leased.values():
            yield from addresses

    def addresses_of(self, term: NodeSelectorTerm) -> Iterator[bytes]:
        """The addresses of the nodes that a term selects."""
        meant = {name for name, labels in self.labels.items() if term.nodes.matches(labels)}
        return (address for address in self._owners if self.node_of(address) in meant)

    def domain_addresses(self, domain: str) -> Iterator[bytes]:
        """The addresses known of a domain name; `*.example.org` is every name below it."""
        if domain.startswith("*."):
            for object_keys, found in self.resolved_names.items():
                if object_keys.endswith(domain[1:]):
                    yield from found
        else:
            yield from self.resolved_names.get(domain, ())


def _node_addresses(spec: SubnetLeaseSpec) -> Iterator[bytes]:
    """The first address of a subnet (the tunnel's) and the second (the bridge's), which no pod gets."""
    for subnet in spec.subnets:
        yield subnet.network_address.packed
        if subnet.num_addresses > 1:
            yield gateway(subnet).packed


def _packed(texts: Iterable[str]) -> Iterable[bytes]:
    """A node's addresses without host names."""
    for text in texts:
        try:
            yield ip_address(text).packed
        except ValueError:
            continue
