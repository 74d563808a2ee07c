"""Routes, addresses, neighbours and forwarding entries as messages, there and back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.kernel.netlink import route
from percale.kernel.netlink.ifinfo import mac_text
from percale.model.addresses import IPAddress
from percale.render.objects import Address, FdbEntry, Neighbour, Route

macs = st.binary(min_size=6, max_size=6).map(mac_text)
ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)
ips = st.one_of(ipv4, ipv6)
ipv4_networks = st.builds(
    lambda ip, length: IPv4Network((int(ip) >> (32 - length) << (32 - length), length)), ipv4, st.integers(0, 32)
)
ipv6_networks = st.builds(
    lambda ip, length: IPv6Network((int(ip) >> (128 - length) << (128 - length), length)), ipv6, st.integers(0, 128)
)


def routes() -> st.SearchStrategy[Route]:
    def of(
        dst: st.SearchStrategy[IPv4Network] | st.SearchStrategy[IPv6Network], via: st.SearchStrategy[IPAddress]
    ) -> st.SearchStrategy[Route]:
        metric = st.integers(0, 2**32 - 1).filter(lambda number: number != 1024)
        return st.builds(
            Route,
            dst=dst,
            dev=st.just("eth0"),
            via=st.none() | via,
            onlink=st.booleans(),
            src=st.none() | via,
            metric=metric,
        )

    return st.one_of(of(ipv4_networks, ipv4), of(ipv6_networks, ipv6))


@given(routes())
def test_routes_there_and_back(declared: Route) -> None:
    (request,) = route.put_route(declared, 2)
    seen = route.decode_route(request.body)
    assert seen is not None
    assert (seen.ours, seen.index) == (True, 2)
    assert route.as_route(seen, "eth0") == declared


def test_a_default_metric_of_ipv6_is_none_of_ours() -> None:
    (request,) = route.put_route(Route(ip_network("fd00::/64"), "eth0", metric=1024), 2)
    seen = route.decode_route(request.body)
    assert seen is not None
    assert seen.metric == 0


@pytest.mark.parametrize("kind", ["blackhole", "unreachable"])
def test_a_route_to_nowhere_has_no_device(kind: str) -> None:
    declared = Route(ip_network("10.0.0.0/8"), kind=kind)  # type: ignore[arg-type]
    (request,) = route.put_route(declared, None)
    seen = route.decode_route(request.body)
    assert seen is not None
    assert route.as_route(seen, None) == declared


@given(ips, st.integers(0, 32))
def test_addresses_there_and_back(ip: IPAddress, length: int) -> None:
    desired = Address("eth0", ip_interface(f"{ip}/{length}"))
    (request,) = route.put_address(desired, 2)
    seen = route.decode_address(request.body)
    assert (seen.index, seen.address, seen.ours, seen.temporary) == (2, desired.address, True, False)


@given(ips, macs)
def test_neighbours_and_forwarding_entries_there_and_back(ip: IPAddress, mac: str) -> None:
    (request,) = route.put_neighbour(Neighbour("eth0", ip, mac), 2)
    seen = route.decode_neighbour(request.body)
    assert seen is not None
    assert (seen.index, seen.dst, seen.mac, seen.permanent, seen.ours, seen.fdb) == (2, ip, mac, True, True, False)
    (request,) = route.put_fdb(FdbEntry("eth0", mac, ip), 2)
    seen = route.decode_neighbour(request.body)
    assert seen is not None
    assert (seen.index, seen.dst, seen.mac, seen.permanent, seen.fdb) == (2, ip, mac, True, True)
