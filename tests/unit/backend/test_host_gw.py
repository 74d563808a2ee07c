"""The host-gw backend as values."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from tests.unit.backend.conftest import altered

from percale.backend.host_gw import HostGw
from percale.backend.protocol import LocalNode, PeerObjects
from percale.errors import BadConfig
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import Route

Peer = Callable[..., SubnetLease]

V4 = (Route(ip_network("10.244.2.0/24"), "eth0", ip_address("192.0.2.2")),)
V6 = (Route(ip_network("fd00:0:0:2::/64"), "eth0", ip_address("2001:db8::2")),)


def test_one_plain_route_per_family(node: LocalNode, peer: Peer) -> None:
    lease = peer(2, backendType="host-gw", backendData=None, backendV6Data=None)
    assert HostGw().peer(node, lease) == PeerObjects(V4 + V6, (ip_address("192.0.2.2"), ip_address("2001:db8::2")))
    assert HostGw().device(node) == ()
    assert HostGw().lease_data(node) == {}
    assert HostGw().pod_mtu(node) == 1500


def test_bug_a_peer_with_one_family_works_in_that_family(node: LocalNode, peer: Peer) -> None:
    assert HostGw().peer(node, peer(2, backendType="host-gw", ipv6Subnet=None)).objects == V4
    assert HostGw().peer(node, peer(2, backendType="host-gw", publicIP=None)).objects == V6


def test_a_peer_behind_a_gateway_is_a_problem_of_that_peer(node: LocalNode, peer: Peer) -> None:
    away = peer(2, backendType="host-gw", publicIP=IPv4Address("198.51.100.2"))
    assert HostGw().peer(node, away).objects == V6
    assert HostGw().peer(node, away).problem == (
        "198.51.100.2 is behind a gateway: host-gw needs all nodes on one network segment; use vxlan"
    )
    assert HostGw().peer(node, peer(3, backendType="host-gw")).problem is None


def test_a_peer_with_another_backend(node: LocalNode, peer: Peer) -> None:
    assert HostGw().peer(node, peer(2)) == PeerObjects(problem='its backend is "vxlan", ours "host-gw"')


def test_the_public_address_must_be_the_interfaces(node: LocalNode) -> None:
    HostGw().check(node)
    with pytest.raises(BadConfig) as caught:
        HostGw().check(altered(node, Family.IPV4, public_ip=IPv4Address("203.0.113.9")))
    assert str(caught.value) == (
        "node n1: host-gw: public address 203.0.113.9 is not an address of eth0; "
        "leave out --public-ip, choose the interface with --iface, or use vxlan"
    )
    with pytest.raises(BadConfig, match="2001:db8::99 is not an address of eth0"):
        HostGw().check(altered(node, Family.IPV6, public_ip=IPv6Address("2001:db8::99")))
