"""Leases that contradict each other: one public address, one VtepMAC, overlapping subnets. Checked before rendering.

`refusal` compares a lease with this node's own; `LeaseConflicts` compares peers' leases with each other, one change at a
time. The earlier lease stays in force; the later one is rejected with both names, and reconsidered when the earlier is gone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from percale.backend.protocol import ExclusiveId, LocalNode
from percale.ipam.subnet_plan import first_overlap
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.subnet_lease import NodeSubnets, SubnetLease, SubnetLeaseSpec


def refusal(local: LocalNode, networks: Iterable[IPNetwork], lease: SubnetLease) -> str | None:
    """Why this peer contradicts this node's own lease or the pod network; None when it does not."""
    node, addresses, subnets = lease.spec.node, lease.spec.public_ips, lease.spec.subnets
    if (invalid := _invalid(local, node, addresses, subnets)) is not None:
        return invalid
    for address in addresses:
        if address in local.public_ips:
            return f"nodes {node} and {local.name} have one public address, {address}"
    pair = first_overlap(local.subnets, subnets)
    if pair is not None:
        return f"subnet {pair[1]} of node {node} overlaps {pair[0]} of node {local.name}"
    for network in networks:
        for subnet in subnets:
            if subnet.version == network.version and not subnet.subnet_of(network):  # type: ignore[arg-type]
                return f"subnet {subnet} of node {node} is outside the pod network, {network}"
    return None


def _invalid(local: LocalNode, node: str, addresses: tuple[IPAddress, ...], subnets: NodeSubnets) -> str | None:
    """Addresses that no pod or machine can have, and subnets that would route the underlay's own packets into the tunnel."""
    for address in addresses:
        if address.is_unspecified or address.is_loopback or address.is_multicast or address == _BROADCAST:
            return f"public address {address} of node {node} is no machine's"
    machines = [*addresses, *local.underlay_addresses]
    for subnet in subnets:
        special = subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.prefixlen == 0
        if special or any(address in subnet for address in machines):
            return f"subnet {subnet} of node {node} is not for pods, or has machines in it"
    return None


_BROADCAST = IPv4Address("255.255.255.255")


class LeaseConflicts:
    """The peers' leases in force, free of conflicts, and those that wait."""

    def __init__(self, backend_ids: Callable[[SubnetLeaseSpec], Iterable[ExclusiveId]]) -> None:
        """`backend_ids` is `Backend.exclusive_ids`."""
        self._backend_ids = backend_ids
        self._in_force: dict[str, SubnetLease] = {}
        self._waiting: dict[str, SubnetLease] = {}
        self._holders: defaultdict[ExclusiveId, list[SubnetLease]] = defaultdict(list)
        """Several leases only when they are one node's."""
        self._machines: dict[int, list[int]] = {4: [], 6: []}
        """Public addresses, sorted, by IP version."""
        self._subnets: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}
        """First and last address and lease name, sorted, by IP version; they never overlap."""

    def admit(self, lease: SubnetLease) -> str | None:
        """The lease is new or changed: None when it is in force now, else why it waits.

        A changed lease releases what it had: see `unblocked`.
        """
        name = lease.metadata.name
        self.remove(name)
        exclusive_ids = self._ids(lease.spec)
        reason = self._conflict(lease.spec, exclusive_ids)
        if reason is not None:
            self._waiting[name] = lease
            return reason
        self._in_force[name] = lease
        for exclusive_id in exclusive_ids:
            self._holders[exclusive_id].append(lease)
        for address in lease.spec.public_ips:
            insort(self._machines[address.version], int(address))
        for subnet in lease.spec.subnets:
            insort(self._subnets[subnet.version], (*_bounds(subnet), name))
        return None

    def remove(self, name: str) -> None:
        """The lease was deleted."""
        self._waiting.pop(name, None)
        lease = self._in_force.pop(name, None)
        if lease is None:
            return
        for exclusive_id in self._ids(lease.spec):
            self._holders[exclusive_id].remove(lease)
        for address in lease.spec.public_ips:
            machines = self._machines[address.version]
            del machines[bisect_left(machines, int(address))]
        for subnet in lease.spec.subnets:
            ordered = self._subnets[subnet.version]
            del ordered[bisect_left(ordered, (*_bounds(subnet), name))]

    def unblocked(self) -> list[SubnetLease]:
        """Waiting leases that no longer conflict with one in force: admit each again."""
        return [lease for lease in self._waiting.values() if self._conflict(lease.spec, self._ids(lease.spec)) is None]

    def _conflict(self, spec: SubnetLeaseSpec, exclusive_ids: Iterable[ExclusiveId]) -> str | None:
        node = spec.node
        for exclusive_id in exclusive_ids:
            for lease in self._holders.get(exclusive_id, ()):
                if lease.spec.node != node:
                    return f"nodes {lease.spec.node} and {node} have one {exclusive_id}"
        for subnet in spec.subnets:
            if (holder := self._overlapping(subnet.version, *_bounds(subnet))) is not None:
                theirs = self._in_force[holder].spec
                pair = first_overlap([subnet], theirs.subnets)
                assert pair is not None
                return f"subnet {subnet} of node {node} overlaps {pair[1]} of node {theirs.node}"
            if (machine := self._machine_in(subnet)) is not None:
                return f"subnet {subnet} of node {node} has another node's address in it, {machine}"
        for address in spec.public_ips:
            if (holder := self._overlapping(address.version, int(address), int(address))) is not None:
                other = self._in_force[holder].spec.node
                return f"public address {address} of node {node} is in the subnet of node {other}"
        return None

    def _ids(self, spec: SubnetLeaseSpec) -> list[ExclusiveId]:
        public = [ExclusiveId("public address", address, address.version) for address in spec.public_ips]
        return [*public, *self._backend_ids(spec)]

    def _overlapping(self, version: int, first: int, last: int) -> str | None:
        """The name of a lease in force whose subnet overlaps these addresses; only the nearest neighbours in order can."""
        ordered = self._subnets[version]
        place = bisect_left(ordered, (first,))
        for begin, end, name in ordered[max(place - 1, 0) : place + 1]:
            if begin <= last and first <= end:
                return name
        return None

    def _machine_in(self, subnet: IPNetwork) -> IPAddress | None:
        """The first public address of a lease in force that the subnet would take from its node."""
        first, last = _bounds(subnet)
        machines = self._machines[subnet.version]
        place = bisect_left(machines, first)
        return subnet[machines[place] - first] if place < len(machines) and machines[place] <= last else None


def _bounds(subnet: IPNetwork) -> tuple[int, int]:
    first = int(subnet.network_address)
    return first, first + (1 << subnet.max_prefixlen - subnet.prefixlen) - 1
