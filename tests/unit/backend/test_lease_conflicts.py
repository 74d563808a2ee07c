"""Leases that cannot both be true."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from percale.backend.lease_conflicts import LeaseConflicts, refusal
from percale.backend.protocol import LocalNode
from percale.backend.vxlan import VxlanBackend
from percale.ipam.subnet_plan import first_overlap
from percale.model.backend_options import VxlanOptions
from percale.model.subnet_lease import SubnetLease

Peer = Callable[..., SubnetLease]
NETWORKS = (IPv4Network("10.244.0.0/16"), IPv6Network("fd00::/48"))


def test_this_node_and_a_peer(node: LocalNode, peer: Peer) -> None:
    assert refusal(node, NETWORKS, peer(2)) is None
    assert (
        refusal(node, NETWORKS, peer(2, publicIP=node.public_ips[0]))
        == "nodes n2 and n1 have one public address, 192.0.2.1"
    )
    assert (
        refusal(node, NETWORKS, peer(2, publicIPv6=node.public_ips[1]))
        == "nodes n2 and n1 have one public address, 2001:db8::1"
    )
    assert refusal(node, NETWORKS, peer(2, subnet=IPv4Network("10.244.0.0/20"))) == (
        "subnet 10.244.0.0/20 of node n2 overlaps 10.244.1.0/24 of node n1"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_a_public_address_that_no_machine_has(node: LocalNode, peer: Peer, address: str) -> None:
    said = f"public address {address} of node n2 is no machine's"
    assert refusal(node, NETWORKS, peer(2, publicIP=IPv4Address(address))) == said


@pytest.mark.parametrize("subnet", ["0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24"])
def test_a_subnet_that_is_for_no_pods(node: LocalNode, peer: Peer, subnet: str) -> None:
    said = f"subnet {subnet} of node n2 is not for pods, or has machines in it"
    assert refusal(node, NETWORKS, peer(2, subnet=IPv4Network(subnet))) == said


def test_a_subnet_outside_the_pod_network(node: LocalNode, peer: Peer) -> None:
    """Of the API server, say: this node's packets to it would go to whoever wrote the lease."""
    said = "is outside the pod network"
    assert refusal(node, NETWORKS, peer(2, subnet=IPv4Network("203.0.113.0/24"))) == (
        f"subnet 203.0.113.0/24 of node n2 {said}, 10.244.0.0/16"
    )
    assert refusal(node, NETWORKS, peer(2, ipv6Subnet="fd01::/64")) == f"subnet fd01::/64 of node n2 {said}, fd00::/48"
    assert refusal(node, NETWORKS[:1], peer(2, ipv6Subnet="fd01::/64")) is None, "no route of that family"


def test_a_subnet_with_another_nodes_address_in_it(peer: Peer) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    first, thief = peer(2, publicIP=IPv4Address("10.244.9.5")), peer(9)
    conflicts.admit(first)
    assert conflicts.admit(thief) == "subnet 10.244.9.0/24 of node n9 has another node's address in it, 10.244.9.5"
    assert conflicts.admit(peer(2)) is None
    assert conflicts.unblocked() == [thief]
    assert conflicts.admit(thief) is None
    assert conflicts.admit(first) == "public address 10.244.9.5 of node n2 is in the subnet of node n9"
    conflicts.remove(thief.metadata.name)
    assert conflicts.unblocked() == [first]


def test_peers_that_agree(peer: Peer) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    assert [conflicts.admit(peer(number)) for number in (2, 3, 4, 2)] == [None] * 4


def test_the_later_lease_is_refused_with_both_names(peer: Peer) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    conflicts.admit(peer(2))
    assert (
        conflicts.admit(peer(3, publicIP=IPv4Address("192.0.2.2")))
        == "nodes n2 and n3 have one public address, 192.0.2.2"
    )
    assert conflicts.admit(peer(4, publicIPv6=IPv6Address("2001:db8::2"))) == (
        "nodes n2 and n4 have one public address, 2001:db8::2"
    )
    same_mac = {"VNI": 1, "VtepMAC": "02:00:00:00:04:02"}
    assert conflicts.admit(peer(5, backendData=same_mac)) == "nodes n2 and n5 have one VtepMAC, 02:00:00:00:04:02"
    assert conflicts.admit(peer(6, subnet=IPv4Network("10.244.2.128/25"))) == (
        "subnet 10.244.2.128/25 of node n6 overlaps 10.244.2.0/24 of node n2"
    )
    assert conflicts.admit(peer(7, subnet=IPv4Network("10.244.0.0/21"))) == (
        "subnet 10.244.0.0/21 of node n7 overlaps 10.244.2.0/24 of node n2"
    )


def test_a_conflicting_lease_is_admitted_once_the_first_is_gone(peer: Peer) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    first, second = peer(2), peer(3, publicIP=IPv4Address("192.0.2.2"))
    conflicts.admit(first)
    conflicts.admit(second)
    assert conflicts.unblocked() == []
    conflicts.remove(first.metadata.name)
    assert conflicts.unblocked() == [second]
    assert conflicts.admit(second) is None
    assert conflicts.unblocked() == []


def test_a_change_may_unblock_another(peer: Peer) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    conflicts.admit(peer(2))
    waiting = peer(3, publicIP=IPv4Address("192.0.2.2"))
    conflicts.admit(waiting)
    assert conflicts.admit(peer(2, publicIP=IPv4Address("192.0.2.200"))) is None
    assert conflicts.unblocked() == [waiting]


def test_two_leases_of_one_node_do_not_conflict(peer: Peer) -> None:
    """A node that has exchanged its subnet, while the old lease still runs."""
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    old = peer(2)
    new = peer(9, node="n2", publicIP=old.spec.publicIP, publicIPv6=old.spec.publicIPv6)
    assert (conflicts.admit(old), conflicts.admit(new)) == (None, None)
    conflicts.remove(old.metadata.name)
    assert conflicts.admit(peer(3, publicIP=old.spec.publicIP)) == "nodes n2 and n3 have one public address, 192.0.2.2"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(2, 7), st.integers(2, 5), st.integers(22, 26)), max_size=25))
def test_whatever_happens_those_in_force_agree(peer: Peer, steps: list[tuple[bool, int, int, int]]) -> None:
    conflicts = LeaseConflicts(VxlanBackend(VxlanOptions()).exclusive_ids)
    in_force: dict[str, SubnetLease] = {}
    for comes, number, address, length in steps:
        subnet = IPv4Network((f"10.244.{number}.0", length), strict=False)
        lease = peer(number, subnet=subnet, publicIP=IPv4Address(f"192.0.2.{address}"))
        name = lease.metadata.name
        in_force.pop(name, None)
        if not comes:
            conflicts.remove(name)
        elif conflicts.admit(lease) is None:
            in_force[name] = lease
        for waiting in conflicts.unblocked():
            if conflicts.admit(waiting) is None:
                in_force[waiting.metadata.name] = waiting
        leases = list(in_force.values())
        for position, one in enumerate(leases):
            for other in leases[position + 1 :]:
                assert first_overlap(one.spec.subnets, other.spec.subnets) is None
                assert one.spec.publicIP != other.spec.publicIP or one.spec.node == other.spec.node
