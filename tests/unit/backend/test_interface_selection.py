"""flannel's choice of the interface, from what the kernel has."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from percale.backend.interface_selection import (
    Found,
    InterfaceOptions,
    address_of,
    local_node,
    on_link,
    select_interface,
)
from percale.backend.protocol import LocalFamily
from percale.errors import BadConfig
from percale.kernel.protocol import HostRoute, Interface, Underlay
from percale.model.ip_family import Family
from percale.model.subnet_lease import NodeSubnets


def interface(name: str, *addresses: str, temporary: str | None = None, mtu: int = 1500) -> Interface:
    return Interface(
        name,
        1,
        "02:00:00:00:00:01",
        mtu,
        up=True,
        carrier=True,
        addresses=tuple(map(ip_interface, addresses)),
        temporary=frozenset({ip_interface(temporary)}) if temporary else frozenset(),
    )


def route(dst: str, dev: str, via: str | None = None, metric: int = 0) -> HostRoute:
    return HostRoute(ip_network(dst), dev, ip_address(via) if via else None, metric)


LO = interface("lo", "127.0.0.1/8", "::1/128")
ETH0 = interface("eth0", "192.0.2.1/24", "fe80::1/64", "2001:db8::7/64", "2001:db8::1/64", temporary="2001:db8::7/64")
ETH1 = interface("eth1", "198.51.100.1/24", "2001:db8:1::1/64")
UNDERLAY = Underlay(
    interfaces=(LO, ETH0, ETH1),
    routes=(
        route("0.0.0.0/0", "eth1", "198.51.100.254", metric=200),
        route("0.0.0.0/0", "eth0", "192.0.2.254", metric=100),
        route("192.0.2.0/24", "eth0"),
        route("198.51.100.0/24", "eth1"),
        route("10.0.0.0/8", "eth0", "192.0.2.253"),
        route("10.9.0.0/16", "eth1", "198.51.100.253", metric=5),
        route("10.9.0.0/16", "eth0", "192.0.2.253", metric=9),
        route("::/0", "eth1", "fe80::99"),
    ),
)


def choice(options: InterfaceOptions = InterfaceOptions(), underlay: Underlay = UNDERLAY) -> tuple[str, str]:  # noqa: B008
    """Interface and address for IPv4."""
    (found,) = select_interface(options, underlay, [Family.IPV4]).families.values()
    return found.interface.name, str(found.address)


def refused(
    options: InterfaceOptions = InterfaceOptions(),  # noqa: B008
    underlay: Underlay = UNDERLAY,
    families: Iterable[Family] = (Family.IPV4,),
) -> str:
    with pytest.raises(BadConfig) as caught:
        select_interface(options, underlay, families)
    return str(caught.value)


# Which interface


def test_none_given_is_the_default_routes_interface() -> None:
    assert choice() == ("eth0", "192.0.2.1")


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (InterfaceOptions(iface=("eth1",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface=("198.51.100.1",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface=("2001:db8:1::1",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface=("wlan0", "eth1", "eth0")), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface_regex=(r"^eth[1-9]$",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface_regex=(r"^198\.51\.",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface_regex=("^wlan", "^eth1")), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface=("wlan0",), iface_regex=("eth",)), ("eth0", "192.0.2.1")),
        (InterfaceOptions(iface=("eth1",), iface_regex=("eth0",)), ("eth1", "198.51.100.1")),
        (InterfaceOptions(can_reach="10.9.1.1"), ("eth1", "198.51.100.1")),
        (InterfaceOptions(can_reach="10.8.1.1"), ("eth0", "192.0.2.1")),
        (InterfaceOptions(can_reach="198.51.100.77"), ("eth1", "198.51.100.1")),
        (InterfaceOptions(can_reach="203.0.113.1"), ("eth0", "192.0.2.1")),
        (InterfaceOptions(can_reach="2001:db8:77::1"), ("eth1", "198.51.100.1")),
        (InterfaceOptions(iface=("eth0",), can_reach="10.9.1.1"), ("eth0", "192.0.2.1")),
        (InterfaceOptions(public_ips={Family.IPV4: "203.0.113.5"}), ("eth0", "203.0.113.5")),
        (InterfaceOptions(iface=("eth1",), public_ips={Family.IPV4: "203.0.113.5"}), ("eth1", "203.0.113.5")),
    ],
)
def test_the_flags(options: InterfaceOptions, chosen: tuple[str, str]) -> None:
    assert choice(options) == chosen


def test_an_interface_chosen_by_one_of_its_addresses_uses_that_one() -> None:
    two = interface("eth2", "192.0.2.50/24", "192.0.2.60/24")
    underlay = replace(UNDERLAY, interfaces=(*UNDERLAY.interfaces, two))
    assert choice(InterfaceOptions(iface=("192.0.2.60",)), underlay) == ("eth2", "192.0.2.60")
    assert choice(InterfaceOptions(iface_regex=(r"\.60$",)), underlay) == ("eth2", "192.0.2.60")
    assert choice(InterfaceOptions(iface=("eth2",)), underlay) == ("eth2", "192.0.2.50")


def test_the_default_route_moves() -> None:
    routes = tuple(replace(one, metric=300) if one.dev == "eth0" else one for one in UNDERLAY.routes)
    assert choice(underlay=replace(UNDERLAY, routes=routes)) == ("eth1", "198.51.100.1")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (InterfaceOptions(iface=("wlan0",)), "no interface with an IPv4 address is wlan0"),
        (
            InterfaceOptions(iface=("wlan0",), iface_regex=("^ens",)),
            "no interface with an IPv4 address is wlan0 or ^ens",
        ),
        (InterfaceOptions(iface_regex=("(",)), '--iface-regex: "(" is not a regular expression'),
        (InterfaceOptions(can_reach="nowhere"), '--iface-can-reach: "nowhere" is not an address'),
        (InterfaceOptions(public_ips={Family.IPV4: "nowhere"}), '--public-ip: "nowhere" is not an address'),
        (
            InterfaceOptions(public_ips={Family.IPV4: "2001:db8::5"}),
            "--public-ip: 2001:db8::5 is of the other IP version",
        ),
    ],
)
def test_flags_that_fit_nothing(options: InterfaceOptions, what: str) -> None:
    assert what in refused(options)


def test_the_error_lists_the_candidates() -> None:
    no_default = replace(UNDERLAY, routes=UNDERLAY.routes[2:4])
    assert refused(underlay=no_default) == (
        "cannot choose the interface between nodes: there is no IPv4 default route; choose with --iface: "
        "eth0 (192.0.2.1, fe80::1, 2001:db8::7, 2001:db8::1); eth1 (198.51.100.1, 2001:db8:1::1)"
    )
    assert "there is no route to 203.0.113.1" in refused(InterfaceOptions(can_reach="203.0.113.1"), no_default)
    assert refused(underlay=Underlay((LO,), ())).endswith("no interface has an address")


def test_a_default_route_over_an_interface_without_an_address() -> None:
    bare = replace(UNDERLAY, interfaces=(LO, interface("eth0"), ETH1))
    assert "the IPv4 default route leaves by eth0, which has no IPv4 address" in refused(underlay=bare)


# Which address


def test_global_before_link_local_and_permanent_before_temporary() -> None:
    assert address_of(ETH0, 6) == ip_address("2001:db8::1")
    assert address_of(interface("eth0", "fe80::1/64", "2001:db8::7/64", temporary="2001:db8::7/64"), 6) == ip_address(
        "2001:db8::7"
    )
    assert address_of(interface("eth0", "169.254.3.3/16", "192.0.2.4/24"), 4) == ip_address("192.0.2.4")
    assert address_of(interface("eth0", "fe80::1/64"), 6) == ip_address("fe80::1")
    assert address_of(interface("eth0", "fe80::1/64"), 4) is None


# Families


def both(underlay: Underlay, **options: Any) -> tuple[str, str, str, str]:
    v4, v6 = select_interface(InterfaceOptions(**options), underlay).families.values()
    return v4.interface.name, str(v4.address), v6.interface.name, str(v6.address)


def test_each_family_goes_by_its_own_default_route() -> None:
    assert both(UNDERLAY) == ("eth0", "192.0.2.1", "eth1", "2001:db8:1::1")
    assert both(UNDERLAY, iface=("eth0",)) == ("eth0", "192.0.2.1", "eth0", "2001:db8::1")
    assert both(UNDERLAY, public_ips={Family.IPV6: "2001:db8::55"})[3] == "2001:db8::55"


def test_without_an_ipv6_default_route_the_ipv4_interfaces_global_address() -> None:
    assert both(replace(UNDERLAY, routes=UNDERLAY.routes[:-1])) == ("eth0", "192.0.2.1", "eth0", "2001:db8::1")


def test_a_missing_family_is_an_error_that_names_it() -> None:
    v4_only = Underlay((LO, interface("eth0", "192.0.2.1/24", "fe80::1/64")), UNDERLAY.routes[1:3])
    assert "there is no IPv6 default route" in refused(underlay=v4_only, families=Family)
    assert choice(underlay=v4_only) == ("eth0", "192.0.2.1")


def test_ipv6_alone() -> None:
    located = select_interface(InterfaceOptions(), UNDERLAY, [Family.IPV6])
    assert located.families == {Family.IPV6: Found(ETH1, ip_address("2001:db8:1::1"))}


# What is on link


def linked(*routes: HostRoute, addresses: tuple[str, ...] = ()) -> set[str]:
    eth0 = interface("eth0", *addresses)
    return set(map(str, on_link(Underlay((eth0,), routes), (eth0,))))


def test_prefixes_and_link_routes_of_the_interface() -> None:
    assert linked(
        route("203.0.113.0/24", "eth0"),
        route("198.51.100.0/24", "eth1"),
        route("0.0.0.0/0", "eth0", "192.0.2.254"),
        addresses=("192.0.2.1/24", "2001:db8::1/64"),
    ) == {"203.0.113.0/24", "192.0.2.0/24", "2001:db8::/64"}


def test_what_a_longer_route_sends_to_a_gateway_is_not() -> None:
    assert linked(route("192.0.2.128/25", "eth0", "192.0.2.2"), addresses=("192.0.2.1/24",)) == {"192.0.2.0/25"}
    assert linked(
        route("192.0.2.128/25", "eth0", "192.0.2.2"), route("192.0.2.192/26", "eth0"), addresses=("192.0.2.1/24",)
    ) == {"192.0.2.0/25", "192.0.2.192/26"}
    assert linked(route("192.0.2.0/24", "eth1"), addresses=("192.0.2.1/23",)) == {"192.0.3.0/24"}


def test_an_interface_that_reaches_everything() -> None:
    assert linked(route("0.0.0.0/0", "eth0"), addresses=("192.0.2.1/32",)) == {"0.0.0.0/0", "192.0.2.1/32"}


def test_local_node() -> None:
    located = select_interface(InterfaceOptions(), UNDERLAY)
    subnets = NodeSubnets(IPv4Network("10.244.1.0/24"), IPv6Network("fd00:0:0:1::/64"))
    node = local_node("n1", located, subnets)
    assert (node.name, node.subnets) == ("n1", subnets)
    assert [Found(each.interface, ip) for each in node.families.values() if (ip := each.public_ip)] == [
        *located.families.values()
    ]
    assert ip_network("192.0.2.0/24") in node.on_link
    assert ip_network("10.9.0.0/16") not in node.on_link


def test_a_family_without_an_underlay_has_the_others_interface() -> None:
    located = select_interface(InterfaceOptions(), UNDERLAY, [Family.IPV4])
    v4, v6 = IPv4Network("10.244.1.0/24"), IPv6Network("fd00:0:0:1::/64")
    assert local_node("n1", located, NodeSubnets(v4, v6)).families == {
        Family.IPV4: LocalFamily(v4, ETH0, ip_address("192.0.2.1")),
        Family.IPV6: LocalFamily(v6, ETH0, None),
    }
