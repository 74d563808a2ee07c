"""The ipip backend as values."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace
from tests.unit.backend.conftest import ETH0, altered

from percale.backend.ipip import IpipBackend
from percale.backend.protocol import LocalNode, PeerObjects
from percale.errors import BadConfig, BadNetworkConfig
from percale.model.backend_options import IpipOptions
from percale.model.ip_family import Family
from percale.model.netconf import network_config
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Ipip
from percale.render.network.elements import Element
from percale.render.network.tunnels import TunnelEnd, tunnel_elements
from percale.render.objects import Address, Link, Route

Peer = Callable[..., SubnetLease]
PUBLIC, OTHER = IPv4Address("192.0.2.1"), ip_address("192.0.2.2")
SUBNET = ip_network("10.244.2.0/24")


def ipip(direct: bool = False) -> IpipBackend:
    return IpipBackend(IpipOptions(direct_routing=direct))


def test_one_device_with_the_first_address_of_the_subnet(node_v4: LocalNode) -> None:
    assert ipip().device(node_v4) == (
        Link("flannel.ipip", Ipip(PUBLIC), mtu=1480),
        Address("flannel.ipip", ip_interface("10.244.1.0/32")),
    )
    assert ipip().pod_mtu(node_v4) == 1480
    assert ipip().lease_data(node_v4) == {}


def test_a_peer_by_the_tunnel_or_directly(node_v4: LocalNode, peer: Peer) -> None:
    lease = peer(2, backendType="ipip", backendData=None)
    tunnelled = PeerObjects((Route(SUBNET, "flannel.ipip", OTHER, onlink=True),), (OTHER,))
    assert ipip().peer(node_v4, lease) == tunnelled
    assert ipip(direct=True).peer(node_v4, lease) == PeerObjects((Route(SUBNET, "eth0", OTHER),), (OTHER,))
    away = replace(node_v4, on_link=frozenset())
    assert ipip(direct=True).peer(away, lease) == tunnelled


def test_bug_a_peer_with_ipv6_too_is_reached_by_ipv4(node_v4: LocalNode, peer: Peer) -> None:
    """flannel calls a function of IPv6 that is nil."""
    assert len(ipip().peer(node_v4, peer(2, backendType="")).objects) == 1


def test_bug_a_network_with_ipv6_is_refused() -> None:
    with pytest.raises(BadNetworkConfig) as caught:
        network_config(
            {"Network": "10.0.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/48", "Backend": {"Type": "ipip"}}
        )
    assert str(caught.value) == (
        'net-conf.json: Backend.Type: "ipip" does not carry IPv6; leave out EnableIPv6, or use vxlan'
    )


def test_behind_a_nat_the_tunnel_has_the_nodes_own_address(node_v4: LocalNode) -> None:
    behind = altered(node_v4, Family.IPV4, public_ip=IPv4Address("203.0.113.1"))
    assert ipip().tunnel_ends(behind) == (TunnelEnd(PUBLIC, None),)


def test_without_an_underlay_there_is_no_device(node_v4: LocalNode) -> None:
    assert ipip().device(altered(node_v4, Family.IPV4, public_ip=None)) == ()
    assert ipip().tunnel_ends(altered(node_v4, Family.IPV4, public_ip=None)) == ()


def test_the_guard_takes_ip_in_ip_only_for_such_a_tunnel(node_v4: LocalNode) -> None:
    assert set(tunnel_elements(ipip().tunnel_ends(node_v4))) == {
        Element("ip", "tunnels", (8472,)),
        Element("ip6", "tunnels", (8472,)),
        Element("ip", "localprotocols", (4,)),
        Element("ip", "tunnelendpoints", (PUBLIC,)),
    }


def test_an_mtu_that_is_too_small(node_v4: LocalNode) -> None:
    ipip().check(node_v4)
    small = altered(node_v4, Family.IPV4, interface=replace(ETH0, mtu=595))
    with pytest.raises(BadConfig) as caught:
        ipip().check(small)
    assert str(caught.value) == (
        "node n1: ipip leaves packets 575 bytes of eth0's MTU, but they need 576; raise the MTU of eth0"
    )


def test_a_peer_with_another_backend(node_v4: LocalNode, peer: Peer) -> None:
    assert ipip().peer(node_v4, peer(2)) == PeerObjects(problem='its backend is "vxlan", ours "ipip"')
