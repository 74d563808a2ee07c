"""The wireguard backend as values."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.backend.conftest import ETH0, altered

from percale.backend.protocol import LocalNode, PeerObjects, lease_spec
from percale.backend.wireguard.backend import WireguardBackend
from percale.backend.wireguard.key_file import FILE
from percale.errors import BadConfig
from percale.model.backend_options import WireguardOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Wireguard
from percale.render.network.elements import Element
from percale.render.network.tunnels import TunnelEnd, tunnel_elements
from percale.render.objects import Address, Endpoint, Link, Route, WireguardDevice, WireguardPeer
from percale.secret import Secret

Peer = Callable[..., SubnetLease]
V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
OTHER4, OTHER6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
SUBNET4, SUBNET6 = ip_network("10.244.2.0/24"), ip_network("fd00:0:0:2::/64")
KEY = "A" * 42 + "E="
DATA = {"PublicKey": KEY, "Port": 51820}
DATA6 = {"PublicKey": KEY, "Port": 51821}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., WireguardBackend]:
    """With these options, and always the same key."""
    (tmp_path / FILE).write_text("4" * 42 + "0=")

    def make(**options: Any) -> WireguardBackend:
        backend = WireguardBackend(WireguardOptions(**options))
        backend.load(tmp_path)
        return backend

    return make


def wireguard_lease(peer: Peer, **changes: Any) -> SubnetLease:
    fields = {"backendType": "wireguard", "backendData": DATA, "backendV6Data": DATA6}
    return peer(2, **{**fields, **changes})


Make = Callable[..., WireguardBackend]


def test_a_device_for_each_family(make: Make, node: LocalNode) -> None:
    one, key, address, other, key6, address6 = make().device(node)
    assert (one, address) == (
        Link("flannel-wg", Wireguard(), mtu=1420),
        Address("flannel-wg", ip_interface("10.244.1.0/32")),
    )
    assert (other, address6) == (
        Link("flannel-wg-v6", Wireguard(), mtu=1420),
        Address("flannel-wg-v6", ip_interface("fd00:0:0:1::/128")),
    )
    assert isinstance(key, WireguardDevice)
    assert isinstance(key6, WireguardDevice)
    assert (key.port, key6.port) == (51820, 51821)
    assert key.private_key == key6.private_key is not None
    assert make().tunnel_ends(node) == (TunnelEnd(V4, 51820), TunnelEnd(V6, 51821))


@pytest.mark.parametrize("mode", ["auto", "ipv4", "ipv6"])
def test_or_one_for_both(make: Make, node: LocalNode, mode: str) -> None:
    link, key, *addresses = make(mode=mode, listen_port=7).device(node)
    assert link == Link("flannel-wg", Wireguard(), mtu=1420)
    assert isinstance(key, WireguardDevice)
    assert key.port == 7
    assert addresses == [
        Address("flannel-wg", ip_interface("10.244.1.0/32")),
        Address("flannel-wg", ip_interface("fd00:0:0:1::/128")),
    ]
    assert make(mode=mode, listen_port=7).tunnel_ends(node) == (TunnelEnd(V4, 7), TunnelEnd(V6, 7))


def test_its_lease_is_flannels_to_the_byte(make: Make, node: LocalNode) -> None:
    spec = lease_spec(make(), node)
    key = spec.families[0].fields["PublicKey"]
    assert json.dumps(spec.backendData, separators=(",", ":")) == f'{{"PublicKey":"{key}","Port":51820}}'
    assert json.dumps(spec.backendV6Data, separators=(",", ":")) == f'{{"PublicKey":"{key}","Port":51821}}'
    assert spec.backendType == "wireguard"


@pytest.mark.parametrize("mode", ["auto", "ipv4", "ipv6"])
def test_bug_the_published_port_is_the_one_that_the_device_listens_at(make: Make, node: LocalNode, mode: str) -> None:
    """flannel publishes ListenPortV6 for IPv6, and no device is there; such a peer is reached where it listens."""
    data = make(mode=mode).lease_data(node)
    assert {each["Port"] for each in data.values()} == {51820}


@pytest.mark.parametrize("mode", ["auto", "ipv6"])
def test_bug_a_flannel_node_of_ipv6_alone_is_reached_where_it_listens(
    make: Make, node_v6: LocalNode, peer: Peer, mode: str
) -> None:
    lease = wireguard_lease(peer, subnet=None, publicIP=None, backendData=None)
    first, *_ = make(mode=mode).peer(node_v6, lease).objects
    assert isinstance(first, WireguardPeer)
    assert first.endpoint == Endpoint(OTHER6, 51820)


def test_a_peer_has_its_subnet_and_its_own_address(make: Make, node: LocalNode, peer: Peer) -> None:
    found = make(psk=Secret(b"p" * 32), persistent_keepalive_interval=25).peer(node, wireguard_lease(peer))
    assert found == PeerObjects(
        (
            WireguardPeer(
                "flannel-wg",
                KEY,
                Endpoint(OTHER4, 51820),
                frozenset({SUBNET4, ip_network(OTHER4)}),
                Secret(b"p" * 32),
                25,
            ),
            Route(SUBNET4, "flannel-wg"),
            WireguardPeer(
                "flannel-wg-v6",
                KEY,
                Endpoint(OTHER6, 51821),
                frozenset({SUBNET6, ip_network(OTHER6)}),
                Secret(b"p" * 32),
                25,
            ),
            Route(SUBNET6, "flannel-wg-v6"),
        ),
        (OTHER4, OTHER6),
    )
    assert str(found.objects[0].endpoint) == "192.0.2.2:51820"  # type: ignore[union-attr]
    assert str(found.objects[2].endpoint) == "[2001:db8::2]:51821"  # type: ignore[union-attr]


def test_one_device_carries_both_families_to_one_endpoint(make: Make, node: LocalNode, peer: Peer) -> None:
    both = frozenset({SUBNET4, SUBNET6, ip_network(OTHER4), ip_network(OTHER6)})
    routes = (Route(SUBNET4, "flannel-wg"), Route(SUBNET6, "flannel-wg"))
    auto = make(mode="auto").peer(node, wireguard_lease(peer))
    assert auto == PeerObjects(
        (WireguardPeer("flannel-wg", KEY, Endpoint(OTHER4, 51820), both), *routes), (OTHER4, OTHER6)
    )
    over4 = make(mode="ipv4").peer(node, wireguard_lease(peer))
    only4 = both - {ip_network(OTHER6)}
    assert over4 == PeerObjects((WireguardPeer("flannel-wg", KEY, Endpoint(OTHER4, 51820), only4), *routes), (OTHER4,))
    over6 = make(mode="ipv6").peer(node, wireguard_lease(peer))
    only6 = both - {ip_network(OTHER4)}
    assert over6 == PeerObjects((WireguardPeer("flannel-wg", KEY, Endpoint(OTHER6, 51820), only6), *routes), (OTHER6,))


def test_ipv6_over_an_underlay_of_ipv4_alone(make: Make, node: LocalNode, peer: Peer) -> None:
    alone = altered(node, Family.IPV6, public_ip=None)
    lease = wireguard_lease(peer, publicIPv6=None)
    for mode in ("auto", "ipv4"):
        found = make(mode=mode).peer(alone, lease)
        assert [obj.dst for obj in found.objects if isinstance(obj, Route)] == [SUBNET4, SUBNET6]
        assert found.addresses == (OTHER4,)
        assert len(make(mode=mode).device(alone)) == 4
    assert make(mode="ipv6").device(alone) == ()
    assert make(mode="ipv6").peer(alone, lease) == PeerObjects()
    assert len(make().peer(alone, lease).objects) == 2


@pytest.mark.parametrize(
    ("theirs", "ours", "chosen"),
    [
        (("198.51.100.2", "2001:db8::2"), ("192.168.1.1", "fd00::1"), "192.0.2.2"),
        (("10.0.0.2", "2a00::2"), ("10.0.0.1", "2a00::1"), "2a00::2"),
        (("10.0.0.2", "2a00::2"), ("10.0.0.1", "fd00::1"), "10.0.0.2"),
        (("10.0.0.2", "fd00::2"), ("10.0.0.1", "2a00::1"), "10.0.0.2"),
        (("8.8.8.8", "2a00::2"), ("10.0.0.1", "2a00::1"), "8.8.8.8"),
    ],
)
def test_auto_prefers_what_flannel_prefers(
    make: Make, node: LocalNode, peer: Peer, theirs: tuple[str, str], ours: tuple[str, str], chosen: str
) -> None:
    here = altered(
        altered(node, Family.IPV4, public_ip=ip_address(ours[0])), Family.IPV6, public_ip=ip_address(ours[1])
    )
    lease = wireguard_lease(peer, publicIP=theirs[0], publicIPv6=theirs[1])
    found = make(mode="auto").peer(here, lease).objects[0]
    assert isinstance(found, WireguardPeer)
    assert found.endpoint is not None
    assert str(found.endpoint.address) == (theirs[0] if chosen == "192.0.2.2" else chosen)


def test_a_lease_of_an_older_flannel_has_no_port(make: Make, node: LocalNode, peer: Peer) -> None:
    data = {"PublicKey": KEY}
    found = make().peer(node, wireguard_lease(peer, backendData=data, backendV6Data=data)).objects
    ports = [obj.endpoint.port for obj in found if isinstance(obj, WireguardPeer) and obj.endpoint is not None]
    assert ports == [51820, 51821]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, "no usable PublicKey in its backend data: None"),
        ({"PublicKey": "short"}, "no usable PublicKey in its backend data: 'short'"),
        ({"PublicKey": 7}, "no usable PublicKey in its backend data: 7"),
        ({"PublicKey": KEY, "Port": 65536}, "no usable Port in its backend data: 65536"),
        ({"PublicKey": KEY, "Port": "x"}, "no usable Port in its backend data: 'x'"),
    ],
)
def test_a_peer_without_a_usable_key_or_port(
    make: Make, node: LocalNode, peer: Peer, data: dict[str, Any] | None, problem: str
) -> None:
    found = make().peer(node, wireguard_lease(peer, backendData=data))
    assert found.problem == problem
    assert found.addresses == (OTHER6,)
    assert all(obj.key[1] == "flannel-wg-v6" or isinstance(obj, Route) for obj in found.objects)


def test_a_copied_disk_is_named(make: Make, node: LocalNode, peer: Peer) -> None:
    data = make().lease_data(node)[Family.IPV4]
    found = make().peer(node, wireguard_lease(peer, backendData=data, backendV6Data=data))
    assert found.objects == ()
    assert found.problem == "its PublicKey is this node's: a copied disk? delete private.key on one of them"


def test_a_peer_with_another_backend(make: Make, node: LocalNode, peer: Peer) -> None:
    assert make().peer(node, peer(2)) == PeerObjects(problem='its backend is "vxlan", ours "wireguard"')


def test_pods_are_kept_from_all_its_ports(make: Make, node: LocalNode) -> None:
    assert set(tunnel_elements(make().tunnel_ends(node))) == {
        *(Element(table, "tunnels", (port,)) for table in ("ip", "ip6") for port in (51820, 51821)),
        Element("ip", "localtunnels", (51820,)),
        Element("ip", "tunnelendpoints", (V4,)),
        Element("ip6", "localtunnels", (51821,)),
        Element("ip6", "tunnelendpoints", (V6,)),
    }


def test_behind_a_nat_the_tunnel_has_the_nodes_own_address(make: Make, node_v4: LocalNode) -> None:
    behind = altered(node_v4, Family.IPV4, public_ip=IPv4Address("203.0.113.1"))
    assert make().tunnel_ends(behind) == (TunnelEnd(V4, 51820),)


def test_without_an_underlay_there_is_no_device(make: Make, node_v4: LocalNode) -> None:
    for mode in ("separate", "auto", "ipv4"):
        assert make(mode=mode).device(altered(node_v4, Family.IPV4, public_ip=None)) == ()
        assert make(mode=mode).tunnel_ends(altered(node_v4, Family.IPV4, public_ip=None)) == ()


def test_the_mtu_is_that_of_the_smaller_outer_packets(make: Make, node: LocalNode) -> None:
    assert make().pod_mtu(node) == 1420
    assert make(mtu=1400).pod_mtu(node) == 1320
    assert make(mtu=9000).pod_mtu(node) == 1420
    small = altered(node, Family.IPV6, interface=replace(ETH0, mtu=1359))
    with pytest.raises(BadConfig) as caught:
        make().check(small)
    assert str(caught.value) == (
        "node n1: wireguard leaves IPv6 packets 1279 bytes of eth0's MTU, but they need 1280; "
        "raise the MTU of eth0, or Backend.MTU"
    )
    make().check(node)


def test_another_key_is_made_when_somebody_has_removed_the_one_on_disk(
    make: Make, node: LocalNode, tmp_path: Path
) -> None:
    backend = make()
    before = backend.lease_data(node)
    assert not backend.renew_key()
    (tmp_path / FILE).unlink()
    assert backend.renew_key()
    assert backend.lease_data(node) != before
    assert make().lease_data(node) == backend.lease_data(node)
