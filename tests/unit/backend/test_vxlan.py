"""The vxlan backend as values: flannel's objects, and none of flannel's bugs."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_interface, ip_network

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.backend.conftest import altered

from percale.backend.protocol import LocalNode, PeerObjects, lease_spec
from percale.backend.vxlan import VxlanBackend
from percale.errors import BadConfig
from percale.model.backend_options import VxlanOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Vxlan
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import Address, FdbEntry, KernelObject, Link, Neighbour, Route, Sysctl

Peer = Callable[..., SubnetLease]


def vxlan(**options: object) -> VxlanBackend:
    return VxlanBackend(msgspec.convert(options, VxlanOptions, strict=True))


def link(backend: VxlanBackend, node: LocalNode) -> Link:
    (found,) = (obj for obj in backend.device(node) if isinstance(obj, Link))
    return found


def tunnel(number: int) -> tuple[KernelObject, ...]:
    """What a dual-stack peer on the tunnel needs."""
    v4, v6 = ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:0:0:{number:x}::/64")
    return (
        Neighbour("flannel.1", v4.network_address, f"02:00:00:00:04:{number:02x}"),
        FdbEntry("flannel.1", f"02:00:00:00:04:{number:02x}", ip_address(f"192.0.2.{number}")),
        Route(v4, "flannel.1", v4.network_address, onlink=True),
        Neighbour("flannel-v6.1", v6.network_address, f"02:00:00:00:06:{number:02x}"),
        FdbEntry("flannel-v6.1", f"02:00:00:00:06:{number:02x}", ip_address(f"2001:db8::{number:x}")),
        Route(v6, "flannel-v6.1", v6.network_address, onlink=True),
    )


# The device


def test_devices_are_flannels(node: LocalNode) -> None:
    v4, v6 = (obj for obj in vxlan().device(node) if isinstance(obj, Link))
    assert (v4.name, v4.mtu, v4.kind) == ("flannel.1", 1450, Vxlan(1, ip_address("192.0.2.1"), "eth0"))
    assert (v6.name, v6.mtu, v6.kind) == ("flannel-v6.1", 1430, Vxlan(1, ip_address("2001:db8::1"), "eth0"))
    assert [obj for obj in vxlan().device(node) if not isinstance(obj, Link)] == [
        Sysctl("net/ipv6/conf/flannel.1/accept_ra", "0"),
        Address("flannel.1", ip_interface("10.244.1.0/32")),
        Sysctl("net/ipv6/conf/flannel-v6.1/accept_ra", "0"),
        Address("flannel-v6.1", ip_interface("fd00:0:0:1::/128")),
    ]


def test_every_option_reaches_the_device(node_v4: LocalNode) -> None:
    device = link(vxlan(VNI=42, Port=4789, MTU=1400, GBP=True, Learning=True), node_v4)
    assert (device.name, device.mtu) == ("flannel.42", 1350)
    assert device.kind == Vxlan(42, ip_address("192.0.2.1"), "eth0", port=4789, learning=True, gbp=True)


def test_the_tunnel_starts_at_the_interface_when_the_public_address_is_a_nats(node_v4: LocalNode) -> None:
    behind = altered(node_v4, Family.IPV4, public_ip=IPv4Address("203.0.113.9"))
    assert link(vxlan(), behind).kind == Vxlan(1, ip_address("192.0.2.1"), "eth0")
    assert vxlan().tunnel_ends(behind) == (TunnelEnd(ip_address("192.0.2.1"), 8472),)


def test_the_mac_is_stable_and_differs_by_node_vni_and_family(node: LocalNode, node_v4: LocalNode) -> None:
    """Users' complaint: VtepMAC drift after a reboot leaves stale entries on all peers."""
    by_family = (vxlan().lease_data(node), vxlan(VNI=2).lease_data(node), vxlan().lease_data(replace(node, name="n2")))
    macs = [data["VtepMAC"] for each in by_family for data in each.values()]
    assert len(set(macs)) == 6
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    assert vxlan().lease_data(node) == vxlan().lease_data(
        altered(node, Family.IPV4, public_ip=IPv4Address("192.0.2.99"))
    )
    assert macs[0] == link(vxlan(), node_v4).mac


def test_a_mac_that_was_taken_over_stays(node: LocalNode) -> None:
    known = {"flannel.1": "12:c6:65:89:b4:e3", "cni0": "0a:58:0a:f4:01:01"}
    data = vxlan().lease_data(replace(node, macs=known))
    assert data[Family.IPV4]["VtepMAC"] == "12:c6:65:89:b4:e3"
    assert data[Family.IPV6] == vxlan().lease_data(node)[Family.IPV6]


def test_lease_data_is_flannels_payload(node_v4: LocalNode) -> None:
    (data,) = vxlan().lease_data(node_v4).values()
    assert list(data) == ["VNI", "VtepMAC"]
    assert msgspec.json.encode(data).startswith(b'{"VNI":1,"VtepMAC":"')
    assert lease_spec(vxlan(), node_v4).backendData == data
    assert lease_spec(vxlan(), node_v4).backendV6Data is None


def test_mtu_too_small_for_ipv6(node: LocalNode, node_v4: LocalNode) -> None:
    small = altered(node, Family.IPV6, interface=replace(node.interface, mtu=1300))
    with pytest.raises(BadConfig, match="vxlan leaves IPv6 packets 1230 bytes of eth0's MTU, but they need 1280"):
        vxlan().check(small)
    vxlan().check(altered(node_v4, Family.IPV4, interface=replace(node.interface, mtu=1300)))


def test_the_mtu_option_is_an_upper_limit(node_v4: LocalNode) -> None:
    assert vxlan(MTU=9000).pod_mtu(node_v4) == 1450
    jumbo = altered(node_v4, Family.IPV4, interface=replace(node_v4.interface, mtu=9000))
    assert vxlan(MTU=9000).pod_mtu(jumbo) == 8950


# Peers


def test_a_peer_is_neighbour_fdb_entry_and_route_per_family(node: LocalNode, peer: Peer) -> None:
    assert vxlan().peer(node, peer(2)) == PeerObjects(tunnel(2), (ip_address("192.0.2.2"), ip_address("2001:db8::2")))


def test_a_peer_of_flannels_is_read(node_v4: LocalNode, peer: Peer) -> None:
    lease = peer(2, backendData={"VNI": 1, "VtepMAC": "12:C6:65:89:B4:E3"}, backendV6Data=None)
    assert FdbEntry("flannel.1", "12:c6:65:89:b4:e3", ip_address("192.0.2.2")) in vxlan().peer(node_v4, lease).objects


def test_direct_routing_on_the_same_segment(node: LocalNode, peer: Peer) -> None:
    assert vxlan(DirectRouting=True).peer(node, peer(2)).objects == (
        Route(ip_network("10.244.2.0/24"), "eth0", ip_address("192.0.2.2")),
        Route(ip_network("fd00:0:0:2::/64"), "eth0", ip_address("2001:db8::2")),
    )
    away = peer(2, publicIP=IPv4Address("198.51.100.2"), publicIPv6=ip_address("2001:db8:1::2"))
    assert len(vxlan(DirectRouting=True).peer(node, away).objects) == 6


def test_bug_a_peer_with_one_family_works_in_that_family(node: LocalNode, peer: Peer) -> None:
    """flannel ignores a dual-stack peer without its IPv6 annotation, and drops updates of one family."""
    for lease in (peer(2, ipv6Subnet=None), peer(2, publicIPv6=None)):
        assert vxlan().peer(node, lease).objects == tunnel(2)[:3]
        assert vxlan().peer(node, lease).problem is None
    assert vxlan().peer(node, peer(2, subnet=None)).objects == tunnel(2)[3:]


def test_one_family_of_this_node(node_v4: LocalNode, node_v6: LocalNode, node: LocalNode, peer: Peer) -> None:
    assert vxlan().peer(node_v4, peer(2)).objects == tunnel(2)[:3]
    assert vxlan().peer(node_v6, peer(2)).objects == tunnel(2)[3:]
    waiting = altered(node, Family.IPV6, public_ip=None)  # dual stack, but no IPv6 underlay yet
    assert vxlan().peer(waiting, peer(2)).objects == tunnel(2)[:3]
    assert link(vxlan(), waiting).name == "flannel.1"
    assert vxlan().pod_mtu(waiting) == 1430


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"VNI": 1},
        {"VNI": 1, "VtepMAC": None},
        {"VNI": 1, "VtepMAC": "02:00"},
        {"VNI": 1, "VtepMAC": "02:00:00:00:00:zz"},
        {"VNI": 1, "VtepMAC": "03:00:00:00:00:01"},
        {"VNI": 1, "VtepMAC": "00:00:00:00:00:00"},
    ],
)
def test_a_family_with_unusable_data_is_left_out_with_its_reason(
    node: LocalNode, peer: Peer, data: dict[str, object] | None
) -> None:
    lease = peer(2, backendData=data)
    assert vxlan().peer(node, lease).objects == tunnel(2)[3:]
    assert vxlan().peer(node, lease).addresses == (ip_address("2001:db8::2"),)
    assert (vxlan().peer(node, lease).problem or "").startswith("no usable VtepMAC in its IPv4 backend data: ")


def test_a_peer_with_another_vni(node: LocalNode, peer: Peer) -> None:
    lease = peer(2, backendV6Data={"VNI": 5, "VtepMAC": "02:00:00:00:06:02"})
    assert vxlan().peer(node, lease).objects == tunnel(2)[:3]
    assert vxlan().peer(node, lease).problem == "its VNI is 5, ours 1"


def test_a_peer_with_another_backend(node: LocalNode, peer: Peer) -> None:
    lease = peer(2, backendType="host-gw")
    assert vxlan().peer(node, lease) == PeerObjects(problem='its backend is "host-gw", ours "vxlan"')


# flannel's bugs, as values; tests/kernel/test_backend_vxlan.py has them with packets


def test_bug_a_changed_peer_mac_leaves_no_old_fdb_entry(node_v4: LocalNode, peer: Peer) -> None:
    before = vxlan().peer(node_v4, peer(2)).objects
    after = vxlan().peer(node_v4, peer(2, backendData={"VNI": 1, "VtepMAC": "02:00:00:00:04:99"})).objects
    gone = {obj.key for obj in before} - {obj.key for obj in after}
    assert gone == {("fdb", "flannel.1", "02:00:00:00:04:02")}


def test_bug_mtu_on_an_ipv6_underlay_is_1430(node: LocalNode, node_v6: LocalNode) -> None:
    """flannel writes FLANNEL_MTU=1450 there."""
    assert vxlan().pod_mtu(node_v6) == 1430
    assert vxlan().pod_mtu(node) == 1430
    assert link(vxlan(), node_v6).mtu == 1430


def test_bug_mtu_and_learning_changes_change_the_desired_device(node_v4: LocalNode) -> None:
    """flannel leaves an existing device as it is."""
    smaller = altered(node_v4, Family.IPV4, interface=replace(node_v4.interface, mtu=1400))
    assert link(vxlan(), smaller).mtu == 1350
    assert link(vxlan(), smaller).key == link(vxlan(), node_v4).key
    assert link(vxlan(Learning=True), node_v4) != link(vxlan(), node_v4)


def test_bug_direct_routes_follow_the_segment(node_v4: LocalNode, peer: Peer) -> None:
    """flannel chooses once."""
    backend = vxlan(DirectRouting=True)
    moved = replace(node_v4, on_link=frozenset({ip_network("198.51.100.0/24")}))
    assert backend.peer(node_v4, peer(2)).objects[0] == Route(
        ip_network("10.244.2.0/24"), "eth0", ip_address("192.0.2.2")
    )
    assert backend.peer(moved, peer(2)).objects == tunnel(2)[:3]


def test_an_ipv6_subnet_of_odd_length(node_v6: LocalNode, peer: Peer) -> None:
    lease = peer(2, ipv6Subnet=IPv6Network("fd00:0:0:2::/112"))
    assert Route(ip_network("fd00:0:0:2::/112"), "flannel-v6.1", ip_address("fd00:0:0:2::"), onlink=True) in (
        vxlan().peer(node_v6, lease).objects
    )
