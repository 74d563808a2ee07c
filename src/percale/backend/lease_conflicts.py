"""Leases that contradict each other: one public address, one VtepMAC, overlapping subnets. Checked before rendering.

`refusal` compares a lease with this node's own; `LeaseConflicts` compares peers' leases with each other, one change at a
time. The earlier lease stays in force; the later one is rejected with both names, and reconsidered when the earlier is gone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from ipaddress import IPv4Address

from percale.backend.protocol import LocalNode
from percale.ipam.subnet_plan import Network, NodeSubnets, first_overlap, subnets_of
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec


def refusal(local: LocalNode, lease: SubnetLease) -> str | None:
    """Why this peer contradicts this node's own lease; None when it does not."""
    theirs = lease.spec
    if (invalid := _invalid(local, theirs)) is not None:
        return invalid
    shared = {local.public_ip, local.public_ipv6} & {theirs.publicIP, theirs.publicIPv6} - {None}
    if shared:
        return f"nodes {theirs.node} and {local.name} have one public address, {shared.pop()}"
    pair = first_overlap(NodeSubnets(local.subnet, local.ipv6_subnet), subnets_of(theirs))
    if pair is not None:
        return f"subnet {pair[1]} of node {theirs.node} overlaps {pair[0]} of node {local.name}"
    return None


def _invalid(local: LocalNode, theirs: SubnetLeaseSpec) -> str | None:
    """Addresses that no pod or machine can have, and subnets that would route the underlay's own packets into the tunnel."""
    public = [address for address in (theirs.publicIP, theirs.publicIPv6) if address is not None]
    for address in public:
        if address.is_unspecified or address.is_loopback or address.is_multicast or address == _BROADCAST:
            return f"public address {address} of node {theirs.node} is no machine's"
    machines = [*public, *(each.ip for each in (*local.interface.addresses, *local.interface_v6.addresses))]
    for subnet in subnets_of(theirs):
        special = subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.prefixlen == 0
        if special or any(address in subnet for address in machines):
            return f"subnet {subnet} of node {theirs.node} is not for pods, or has machines in it"
    return None


_BROADCAST = IPv4Address("255.255.255.255")


class LeaseConflicts:
    """The peers' leases in force, free of conflicts, and those that wait."""

    def __init__(self, backend_ids: Callable[[SubnetLeaseSpec], Iterator[tuple[Hashable, str]]]) -> None:
        """`backend_ids` is `Backend.exclusive_ids`."""
        self._backend_ids = backend_ids
        self._in_force: dict[str, SubnetLease] = {}
        self._waiting: dict[str, SubnetLease] = {}
        self._exclusive_ids: defaultdict[Hashable, list[SubnetLease]] = defaultdict(list)
        """By an identity that only one node can have; several leases only when they are one node's."""
        self._subnets: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}
        """First and last address and lease name, sorted, by IP version; they never overlap."""

    def admit(self, lease: SubnetLease) -> str | None:
        """The lease is new or changed: None when it is in force now, else why it waits.

        A changed lease releases what it had: see `unblocked`.
        """
        name = lease.metadata.name
        self.remove(name)
        reason = self._conflict(lease)
        if reason is not None:
            self._waiting[name] = lease
            return reason
        self._in_force[name] = lease
        for exclusive_id, _ in self._ids(lease.spec):
            self._exclusive_ids[exclusive_id].append(lease)
        for subnet in subnets_of(lease.spec):
            insort(self._subnets[subnet.version], (*_bounds(subnet), name))
        return None

    def remove(self, name: str) -> None:
        """The lease was deleted."""
        self._waiting.pop(name, None)
        lease = self._in_force.pop(name, None)
        if lease is None:
            return
        for exclusive_id, _ in self._ids(lease.spec):
            self._exclusive_ids[exclusive_id].remove(lease)
        for subnet in subnets_of(lease.spec):
            ordered = self._subnets[subnet.version]
            del ordered[bisect_left(ordered, (*_bounds(subnet), name))]

    def unblocked(self) -> list[SubnetLease]:
        """Waiting leases that no longer conflict with one in force: admit each again."""
        return [lease for lease in self._waiting.values() if self._conflict(lease) is None]

    def _conflict(self, lease: SubnetLease) -> str | None:
        node = lease.spec.node
        for exclusive_id, text in self._ids(lease.spec):
            others = [
                holder.spec.node for holder in self._exclusive_ids.get(exclusive_id, ()) if holder.spec.node != node
            ]
            if others:
                return f"nodes {others[0]} and {node} have one {text}"
        for subnet in subnets_of(lease.spec):
            if (holder := self._overlapping(subnet)) is not None:
                theirs = self._in_force[holder].spec
                pair = first_overlap([subnet], subnets_of(theirs))
                assert pair is not None
                return f"subnet {subnet} of node {node} overlaps {pair[1]} of node {theirs.node}"
        return None

    def _ids(self, spec: SubnetLeaseSpec) -> Iterator[tuple[Hashable, str]]:
        """What only one node can have, and how it is called."""
        for address in (spec.publicIP, spec.publicIPv6):
            if address is not None:
                yield address, f"public address, {address}"
        yield from self._backend_ids(spec)

    def _overlapping(self, subnet: Network) -> str | None:
        """The name of a lease in force whose subnet overlaps; only the nearest neighbours in order can."""
        first, last = _bounds(subnet)
        ordered = self._subnets[subnet.version]
        place = bisect_left(ordered, (first,))
        for begin, end, name in ordered[max(place - 1, 0) : place + 1]:
            if begin <= last and first <= end:
                return name
        return None


def _bounds(subnet: Network) -> tuple[int, int]:
    return int(subnet.network_address), int(subnet.broadcast_address)
