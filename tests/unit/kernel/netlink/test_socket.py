"""Netlink's bytes: messages, attributes, refusals, and our objects there and back."""

from __future__ import annotations

import errno
import struct
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from socket import SO_SNDBUF, SOL_SOCKET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.kernel.netlink import link, route, tc
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.ifinfo import mac_text
from percale.kernel.netlink.socket import Message
from percale.render.link_kinds import Bridge, Veth, VethPeer, Vxlan
from percale.render.objects import Address, FdbEntry, IPAddress, Link, Neighbour, Route, Shaper

INDICES = {"eth0": 2, "cni0": 3}
NAMES = {index: name for name, index in INDICES.items()}


def test_an_attribute_is_padded_to_four_bytes() -> None:
    assert netlink.attribute(3, b"ab") == struct.pack("=HH2s2x", 6, 3, b"ab")
    assert netlink.text(3, "eth") == struct.pack("=HH4s", 8, 3, b"eth\0")


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40))))
def test_attributes_there_and_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert list(netlink.attribute_list(data)) == pairs
    ((kind, inner),) = netlink.attribute_list(netlink.nested(7, data))
    assert (kind, inner) == (7, data)


@given(st.binary(max_size=100))
def test_attributes_of_nonsense_do_not_hang_or_raise(data: bytes) -> None:
    assert len(list(netlink.attribute_list(data))) <= 25
    assert len(list(netlink.messages(data))) <= 6


def test_several_messages_in_one_datagram() -> None:
    data = netlink.frame(16, 1, 7, b"abcd") + netlink.frame(17, 2, 8, b"")
    assert list(netlink.messages(data)) == [Message(16, 1, 7, 0, b"abcd"), Message(17, 2, 8, 0, b"")]


@pytest.mark.parametrize("capped", [True, False])
def test_a_refusal_carries_the_kernels_own_words(capped: bool) -> None:
    request = netlink.frame(16, 5, 7, b"" if capped else b"abcd")
    words = netlink.text(1, "Nexthop has invalid gateway")
    body = struct.pack("=i", -errno.ENETUNREACH) + request + words
    error = netlink.message_error(Message(netlink.ERROR, 0x200 | (0x100 if capped else 0), 7, 0, body))
    assert error is not None
    assert (error.errno, error.strerror) == (errno.ENETUNREACH, "Nexthop has invalid gateway")
    assert netlink.message_error(Message(netlink.ERROR, 0, 7, 0, bytes(20))) is None


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
    (request,) = route.put_route(declared, INDICES["eth0"])
    seen = route.decode_route(request.body)
    assert seen is not None
    assert seen.ours
    assert route.as_route(seen, NAMES[seen.index or 0]) == declared


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


@pytest.mark.parametrize(
    "desired",
    [
        Link("flannel.1", Vxlan(1, ip_address("10.0.0.1"), "eth0"), mtu=1450, mac="02:00:00:00:00:01"),
        Link(
            "v6",
            Vxlan(9, ip_address("fd00::1"), "eth0", 4789, True, True),
            True,
            1430,
            "02:00:00:00:00:01",
        ),
        Link("pod0", Veth(VethPeer("eth0", 3)), up=False, mtu=1400, mac="02:00:00:00:00:01", master="cni0"),
    ],
    ids=lambda desired: desired.name,
)
def test_devices_there_and_back(desired: Link) -> None:
    create, settle = link.create(desired, 77, INDICES.__getitem__)
    device = link.decode(create.body)
    decoded = link.as_link(device, NAMES.get)
    settled = link.decode(settle.body)
    assert (settled.index, settled.name, settled.alias) == (device.index, "", "percale")
    assert not link.needs_new_device(desired, decoded)
    assert (decoded.name, decoded.up, decoded.mtu, decoded.mac, decoded.master) == (
        desired.name,
        desired.up,
        desired.mtu,
        desired.mac,
        desired.master,
    )


def test_nothing_is_sent_for_a_device_that_is_right() -> None:
    actual = Link("cni0", Bridge(), True, 1500, "02:00:00:00:00:01")
    assert link.change(Link("cni0", Bridge()), actual, 3, INDICES.__getitem__) == []
    (request,) = link.change(Link("cni0", Bridge(), mtu=1400), actual, 3, INDICES.__getitem__)
    assert link.decode(request.body).mtu == 1400


def test_a_shaper_there_and_back() -> None:
    desired = Shaper("eth0", 10_000_000, 800_000)
    _, request = tc.put_shaper(desired, 2)
    assert tc.decode_shaper(request.body) == (10_000_000, 800_000)


def test_a_change_that_is_too_much_for_one_send_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = netlink.Request(0, 0, b"")
    with closing(netlink.Socket(netlink.NETFILTER)) as socket:
        monkeypatch.setattr(socket, "_set_buffer", lambda *size: None)  # as for a user who may not have it larger
        socket._socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
        with pytest.raises(
            OSError, match=r"100\d\d\d bytes are more .* sudo sysctl -w net.core.wmem_max=100"
        ) as raised:
            socket.commit(edge, [netlink.Request(0, 0, bytes(100_000))], edge)
        assert raised.value.errno == errno.EMSGSIZE
