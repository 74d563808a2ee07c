"""A pod's wires as kernel objects: both wirings, every choice of families, the order in which they can be made."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.kernel.plan import dependencies_of
from percale.model.addresses import IPInterface
from percale.model.subnet_lease import NodeSubnets
from percale.render.link_kinds import Bridge, Ifb, Veth, VethPeer
from percale.render.network.base_chains import POD_DEVICE_PREFIX
from percale.render.network.elements import Element
from percale.render.network.pod_veth import (
    HOST_MAC,
    Limit,
    PodDefaults,
    PodWires,
    Wiring,
    bridge_objects,
    gateway_of,
    guard_elements,
    host_device,
    host_objects,
    pod_interface,
    pod_mac,
    pod_objects,
)
from percale.render.objects import Address, KernelObject, Link, Neighbour, Redirect, Route, Shaper, Sysctl

DUAL = PodDefaults(NodeSubnets(IPv4Network("10.1.0.0/24"), IPv6Network("fd00:1::/64")), 1450)
V4, V6 = ip_address("10.1.0.7"), ip_address("fd00:1::7")
MAC = "02:00:00:00:00:01"
FAMILIES = {"IPv4": (V4,), "IPv6": (V6,), "dual": (V4, V6)}


def wires(wiring: Wiring = "routed", families: str = "dual", **more: Limit) -> PodWires:
    seen: tuple[IPInterface, ...] = tuple(pod_interface(DUAL, address, wiring) for address in FAMILIES[families])
    bridge = DUAL.bridge if wiring == "bridge" else None
    return PodWires("c0ffee", "eth0", MAC, 1450, seen, bridge, **more)


DEVICE = wires().device


def test_a_routed_pod() -> None:
    assert pod_objects(wires()) == (
        Link("lo"),
        Sysctl("net/ipv6/conf/eth0/accept_ra", "0"),
        Link("eth0", mtu=1450, mac=MAC),
        Address("eth0", ip_interface("10.1.0.7/32")),
        Neighbour("eth0", ip_address("169.254.1.1"), HOST_MAC),
        Route(ip_network("169.254.1.1/32"), "eth0"),
        Route(ip_network("0.0.0.0/0"), "eth0", ip_address("169.254.1.1")),
        Address("eth0", ip_interface("fd00:1::7/128")),
        Neighbour("eth0", ip_address("fe80::ecee:eeff:feee:eeee"), HOST_MAC),
        Route(ip_network("::/0"), "eth0", ip_address("fe80::ecee:eeff:feee:eeee")),
    )
    assert host_objects(wires(), 7) == (
        Link(DEVICE, Veth(VethPeer("eth0", 7, MAC, 1450)), mtu=1450, mac=HOST_MAC, arp=False),
        Sysctl(f"net/ipv6/conf/{DEVICE}/accept_ra", "0"),
        Neighbour(DEVICE, V4, MAC),
        Route(ip_network("10.1.0.7/32"), DEVICE),
        Neighbour(DEVICE, V6, MAC),
        Route(ip_network("fd00:1::7/128"), DEVICE),
    )
    assert guard_elements(wires()) == (
        Element("ip", "sources", (DEVICE, V4)),
        Element("ip", "quoted", (DEVICE, int(V4))),
        Element("ip6", "sources", (DEVICE, V6)),
        Element("ip6", "quoted", (DEVICE, int(V6))),
    )


def test_a_bridged_pod() -> None:
    assert pod_objects(wires("bridge")) == (
        Link("lo"),
        Sysctl("net/ipv6/conf/eth0/accept_ra", "0"),
        Link("eth0", mtu=1450, mac=MAC),
        Address("eth0", ip_interface("10.1.0.7/24")),
        Route(ip_network("0.0.0.0/0"), "eth0", ip_address("10.1.0.1")),
        Address("eth0", ip_interface("fd00:1::7/64")),
        Route(ip_network("::/0"), "eth0", ip_address("fd00:1::1")),
    )
    assert host_objects(wires("bridge"), 7) == (
        Link(DEVICE, Veth(VethPeer("eth0", 7, MAC, 1450)), mtu=1450, master="cni0", hairpin=True, arp=False),
        Sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", "1"),
    )
    assert guard_elements(wires("bridge")) == (
        Element("bridge", "sources", (DEVICE, MAC, V4)),
        Element("bridge", "quoted", (DEVICE, int(V4))),
        Element("bridge", "sources6", (DEVICE, MAC, V6)),
        Element("bridge", "quoted6", (DEVICE, int(V6))),
        Element("bridge", "neighbours", (DEVICE, MAC, int(V6))),
        Element("bridge", "neighbours", (DEVICE, MAC, int(ip_address("fe80::ff:fe00:1")))),
    )


def test_the_bridge_has_flannels_addresses_and_a_mac_that_stays() -> None:
    link, *others = bridge_objects(DUAL)
    assert others == [
        Sysctl("net/ipv6/conf/cni0/accept_ra", "0"),
        Sysctl("net/ipv6/conf/cni0/accept_dad", "0"),
        Address("cni0", ip_interface("10.1.0.1/24")),
        Address("cni0", ip_interface("fd00:1::1/64")),
        Sysctl("net/bridge/bridge-nf-call-iptables", "1"),
        Sysctl("net/bridge/bridge-nf-call-ip6tables", "1"),
    ]
    assert isinstance(link, Link)
    assert link.mac is not None
    assert int(link.mac[:2], 16) & 3 == 2
    assert link.kind == Bridge(snooping=False, reserved=False)
    assert bridge_objects(DUAL)[0] == link


def versions(objects: tuple[KernelObject | Element, ...]) -> set[int]:
    """The families that addresses, routes, neighbours and elements speak of."""
    found: set[int] = set()
    for obj in objects:
        match obj:
            case Address() | Neighbour():
                found.add(obj.address.version)
            case Route():
                found.add(obj.dst.version)
            case Element():
                found.add(
                    4 if obj.family == "ip" or (obj.set in ("sources", "quoted") and obj.family == "bridge") else 6
                )
    return found


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
@pytest.mark.parametrize(("families", "expected"), [("IPv4", {4}), ("IPv6", {6}), ("dual", {4, 6})])
def test_only_the_pods_own_families(wiring: Wiring, families: str, expected: set[int]) -> None:
    mine = wires(wiring, families)
    assert versions(pod_objects(mine)) == expected
    assert versions((*host_objects(mine), *guard_elements(mine))) == expected


def test_a_pod_of_one_family_has_no_link_local_way_to_the_node() -> None:
    assert Sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", "1") in host_objects(wires(families="IPv4"))


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_the_lasting_objects_differ_in_the_descriptor_only(wiring: Wiring) -> None:
    born, lasting = host_objects(wires(wiring), 7), host_objects(wires(wiring))
    assert {obj.key for obj in born} == {obj.key for obj in lasting}
    assert all(obj.kind in (Veth(), Ifb()) for obj in lasting if isinstance(obj, Link))


def test_what_comes_to_the_pod_is_limited_on_its_device_and_what_it_sends_on_another() -> None:
    limited = wires(ingress=Limit(8000, 16000), egress=Limit(24000, 32000))
    more = [obj for obj in host_objects(limited) if obj not in host_objects(wires())]
    assert more == [
        Shaper(DEVICE, 8000, 16000),
        Link(limited.limiter, Ifb(), mtu=1450),
        Shaper(limited.limiter, 24000, 32000),
        Redirect(DEVICE, limited.limiter),
    ]


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_each_object_comes_after_its_dependencies(wiring: Wiring) -> None:
    limited = wires(wiring, ingress=Limit(8000, 16000), egress=Limit(24000, 32000))
    for objects in (pod_objects(limited), (*bridge_objects(DUAL), *host_objects(limited))):
        seen = {("link", "eth0"), *(("ruleset", family) for family in ("ip", "ip6", "bridge"))}
        for obj in objects:
            assert set(dependencies_of(obj)) <= seen
            seen.add((str(obj.key[0]), str(obj.key[1])))


def test_a_gateway_is_the_subnets_first_address_or_none_that_exists() -> None:
    routed, bridged = wires(), wires("bridge")
    assert [str(gateway_of(routed, each)) for each in routed.addresses] == ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"]
    assert [str(gateway_of(bridged, each)) for each in bridged.addresses] == ["10.1.0.1", "fd00:1::1"]


@given(container=st.from_regex(r"[a-z0-9][a-z0-9_.\-]{0,199}", fullmatch=True), ifname=st.text(min_size=1, max_size=15))
def test_names_and_macs_fit_the_kernel(container: str, ifname: str) -> None:
    name = host_device(container, ifname)
    assert name.startswith(POD_DEVICE_PREFIX)
    assert len(name.encode()) <= 15
    assert int(pod_mac(container, ifname)[:2], 16) & 3 == 2
    assert pod_mac(container, ifname) != HOST_MAC


def test_two_interfaces_of_a_container_differ_in_everything() -> None:
    assert host_device("c", "eth0") != host_device("c", "eth1")
    assert pod_mac("c", "eth0") != pod_mac("c", "eth1")
