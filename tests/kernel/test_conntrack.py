"""ctnetlink with real connections: what is read, how a mark stalls a flow and lets it go on, and the trap of deleting."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from tests.kernel.conftest import Space
from tests.kernel.flows import PORT, SERVICE, VIP, VIP_PORT, A, B, World
from tests.kernel.inside import inside

import percale.kernel.netlink.conntrack
from percale.kernel.netlink.conntrack import (
    ASSURED,
    DESTINATION_TRANSLATED,
    SOURCE_TRANSLATED,
    Conntrack,
    ConntrackEntry,
    EntryFilter,
)
from percale.render.policy.base_chains import CUT_MARK

BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def world(new_space: Callable[[], Space]) -> World:
    return World(new_space(), new_space(), new_space()).open()


@pytest.fixture
def conntrack(world: World) -> Iterator[Conntrack]:
    table = world.conntrack()
    yield table
    table.close()


def packed(address: str) -> bytes:
    return ip_address(address).packed


def only(flows: Iterator[ConntrackEntry]) -> ConntrackEntry:
    (flow,) = flows
    return flow


@BOTH
def test_a_tcp_flow_is_read_as_it_is(world: World, conntrack: Conntrack, version: int) -> None:
    wire = world.tcp(version)
    flow = only(conntrack.of({packed(A[version])}))
    assert flow.original == (packed(A[version]), packed(B[version]), 6, wire.client.getsockname()[1], PORT)
    assert flow.reply == (packed(B[version]), packed(A[version]), 6, PORT, wire.client.getsockname()[1])
    assert flow.status & ASSURED
    assert not flow.status & (SOURCE_TRANSLATED | DESTINATION_TRANSLATED)
    assert (flow.mark, flow.zone) == (0, 0)
    assert flow.id
    wire.close()


@BOTH
def test_a_service_is_seen_through(world: World, conntrack: Conntrack, version: int) -> None:
    """The client before masquerade, and the destination after DNAT."""
    world.nft(SERVICE)
    wire = world.tcp(version, via=(VIP[version], VIP_PORT))
    assert wire.server.getpeername()[0] != A[version]
    flow = only(conntrack.of({packed(A[version])}))
    assert flow.original.destination == packed(VIP[version])
    assert (flow.client, flow.server, flow.server_port) == (packed(A[version]), packed(B[version]), PORT)
    assert flow.status & SOURCE_TRANSLATED
    assert flow.status & DESTINATION_TRANSLATED
    assert only(conntrack.of({packed(B[version])})) == flow
    wire.close()


@BOTH
def test_pings_and_datagrams_are_read_too(world: World, conntrack: Conntrack, version: int) -> None:
    wire = world.udp(version)
    world.a.run("ping", "-n", "-c1", B[version])
    found = {(flow.original.protocol, flow.server_port) for flow in conntrack.of({packed(B[version])})}
    assert found == {(socket.IPPROTO_UDP, PORT), (58 if version == 6 else 1, 0)}
    wire.close()


def test_flows_are_sought_by_family_mark_and_zone(world: World, conntrack: Conntrack) -> None:
    wires = [world.tcp(4), world.tcp(6)]
    (one,) = conntrack.flows(EntryFilter(family=socket.AF_INET))
    (other,) = conntrack.flows(EntryFilter(family=socket.AF_INET6))
    assert {one.client, other.client} == {packed(A[4]), packed(A[6])}
    assert list(conntrack.flows(EntryFilter(marked=CUT_MARK))) == []
    assert conntrack.mark([one], CUT_MARK | 1, CUT_MARK | 1) == [None]
    assert [flow.id for flow in conntrack.flows(EntryFilter(marked=CUT_MARK))] == [one.id]
    assert len(list(conntrack.flows(EntryFilter(zone=0)))) == 2
    assert list(conntrack.flows(EntryFilter(zone=7))) == []
    assert conntrack.count() == 2
    for wire in wires:
        wire.close()


def test_a_mark_changes_only_its_own_bits(world: World, conntrack: Conntrack) -> None:
    wire = world.tcp(4)
    flow = only(conntrack.flows())
    assert conntrack.mark([flow], 0x5, 0xFF) == [None]
    assert conntrack.mark([flow], CUT_MARK, CUT_MARK) == [None]
    assert only(conntrack.flows()).mark == CUT_MARK | 0x5
    assert conntrack.mark([flow], 0, CUT_MARK) == [None]
    assert only(conntrack.flows()).mark == 0x5
    wire.close()


def test_many_addresses_are_found_as_few_are(
    world: World, conntrack: Conntrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one reading of everything, or by one question each: the same flows, each once."""
    with inside(world.a, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as talker:
        for number in range(20):
            talker.sendto(b"x", (B[4], 9000 + number))
    both = {packed(A[4]), packed(B[4])}
    picked = list(conntrack.of(both))
    monkeypatch.setattr(percale.kernel.netlink.conntrack, "_FILTER_COSTS", 0)
    asked = list(conntrack.of(both))
    assert len(picked) == len(asked) == 20
    assert set(picked) == set(asked)
    assert list(conntrack.of({packed("10.244.9.9")})) == []


def test_of_ipv6_only_the_address_s_own_flows_are_found(world: World, conntrack: Conntrack) -> None:
    """Kernels filter by IPv6 address the wrong way round."""
    world.a.run("ping", "-n", "-c1", B[6])
    world.a.run("ping", "-n", "-c1", "fd00:244:1::1")
    (flow,) = conntrack.of({packed(B[6])})
    assert (flow.client, flow.server) == (packed(A[6]), packed(B[6]))
    assert len(list(conntrack.of({packed(A[6])}))) == 2


@BOTH
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_marked_flow_stalls_both_ways_and_goes_on(
    world: World, conntrack: Conntrack, version: int, protocol: str
) -> None:
    wire = world.tcp(version) if protocol == "tcp" else world.udp(version)
    flow = only(conntrack.of({packed(B[version])}))
    conntrack.mark([flow], CUT_MARK, CUT_MARK)
    assert wire.stalls()
    assert wire.stalls(answers=True)
    conntrack.mark([flow], 0, CUT_MARK)
    assert wire.passes()
    assert wire.passes(answers=True)
    wire.close()


@BOTH
def test_an_answer_does_not_open_what_is_cut_but_would_after_a_deletion(world: World, version: int) -> None:
    """The trap: without its entry a connection that b may not have taken is one that b begins, and so it goes on."""
    world.close_b()
    world.open_b()
    cut, deleted = world.tcp(version), None
    table = world.conntrack()
    world.close_b()
    assert cut.passes(), "what is established passes until somebody cuts it"
    table.mark(list(table.of({packed(B[version])})), CUT_MARK, CUT_MARK)
    assert cut.stalls(answers=True)
    assert cut.stalls()
    cut.close()

    world.open_b()
    deleted = world.tcp(version)
    world.close_b()
    world.node.run("conntrack", "-D", "-f", f"ipv{version}", "-p", "tcp")
    assert deleted.stalls()
    assert deleted.passes(answers=True), "an answer begins a connection of the other side"
    assert deleted.passes()
    deleted.close()
    table.close()


def test_tcp_entries_are_never_deleted_and_others_are(world: World, conntrack: Conntrack) -> None:
    wires = [world.tcp(4), world.udp(4)]
    flows = list(conntrack.flows())
    with pytest.raises(AssertionError, match="marked, not deleted"):
        conntrack.delete(flows)
    datagrams = [flow for flow in flows if flow.original.protocol == socket.IPPROTO_UDP]
    assert conntrack.delete(datagrams) == [None]
    assert [flow.original.protocol for flow in conntrack.flows()] == [socket.IPPROTO_TCP]
    for wire in wires:
        wire.close()


def test_a_flow_that_has_ended_is_no_error(world: World, conntrack: Conntrack) -> None:
    wire = world.udp(4)
    flows = list(conntrack.flows())
    wire.close()
    world.node.run("conntrack", "-F")
    assert conntrack.mark(flows, CUT_MARK, CUT_MARK) == [None]
    assert conntrack.delete(flows) == [None]
    assert list(conntrack.flows()) == [], "marking makes no entries"


@BOTH
def test_flows_are_found_by_where_they_were_sent_to(world: World, conntrack: Conntrack, version: int) -> None:
    """Before translation, and of one protocol only."""
    world.nft(SERVICE)
    tcp, udp = world.tcp(version, via=(VIP[version], VIP_PORT)), world.udp(version)
    assert only(conntrack.to({packed(VIP[version])}, [socket.IPPROTO_TCP])).server == packed(B[version])
    assert only(conntrack.to({packed(B[version])}, [socket.IPPROTO_UDP])).server_port == PORT
    assert not list(conntrack.to({packed(B[version])}, [socket.IPPROTO_TCP]))
    assert not list(conntrack.to({packed(VIP[version]), packed(A[version])}, [socket.IPPROTO_UDP]))
    assert (
        len([*conntrack.to({packed(VIP[version]), packed(B[version])}, [socket.IPPROTO_UDP, socket.IPPROTO_TCP])]) == 2
    )
    tcp.close()
    udp.close()


@BOTH
def test_connections_are_counted_while_they_last(world: World, conntrack: Conntrack, version: int) -> None:
    endpoint = packed(B[version]) + PORT.to_bytes(2)
    wanted = {(socket.IPPROTO_TCP, endpoint), (socket.IPPROTO_UDP, endpoint)}
    wires = [world.tcp(version), world.tcp(version), world.udp(version)]
    assert conntrack.connections(wanted) == {(socket.IPPROTO_TCP, endpoint): 2, (socket.IPPROTO_UDP, endpoint): 1}
    assert not conntrack.connections({(socket.IPPROTO_TCP, packed(A[version]) + PORT.to_bytes(2))})
    wires[0].close()
    assert conntrack.connections(wanted)[socket.IPPROTO_TCP, endpoint] == 1
    for wire in wires[1:]:
        wire.close()
