"""Packets and transactions: class chains that return and drop, ports in ranges, networks, IPv6, and atomic changes.

a 10.244.1.2, fd00:244:1::2 ── node ── b 10.244.2.2, fd00:244:2::2; b serves UDP, which needs no new connection to be evaluated.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from tests.kernel.conftest import Space
from tests.kernel.inside import inside

from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import Between, Chain, ElementBatch, Equals, InSet, Rule, SetSpec, Transaction, Verdict

A = {4: "10.244.1.2", 6: "fd00:244:1::2"}
B = {4: "10.244.2.2", 6: "fd00:244:2::2"}
INSIDE, ABOVE = 5005, 5011
"""Ports within the range that is allowed, and beyond it."""
SILENCE = 0.15
"""Seconds without a packet that mean that it was dropped."""
PATIENCE = 40
"""How often a first packet is tried."""
RETURN, DROP = Verdict("return"), Verdict("drop")

PODS = {4: SetSpec("pods4-a", ("ipv4_addr",)), 6: SetSpec("pods6-a", ("ipv6_addr",))}
NETS = {4: SetSpec("nets4", ("ipv4_addr",), interval=True), 6: SetSpec("nets6", ("ipv6_addr",), interval=True)}
PORTS = SetSpec("ports", ("inet_proto", "inet_service"), interval=True)
NAMED = {
    4: SetSpec("named4", ("ipv4_addr", "inet_proto", "inet_service")),
    6: SetSpec("named6", ("ipv6_addr", "inet_proto", "inet_service")),
}


@dataclass
class Pair:
    """Two pods and the node between them."""

    node: Space
    a: Space
    b: Space

    def reaches(self, version: int, port: int) -> bool:
        """Does a packet from a come to b?"""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        client, server = (self._socket(space, family) for space in (self.a, self.b))
        with client, server:
            server.bind(("", port))
            server.settimeout(SILENCE)
            client.sendto(b"?", (B[version], port))
            try:
                return server.recv(1) == b"?"
            except TimeoutError:
                return False

    @staticmethod
    def _socket(space: Space, family: int) -> socket.socket:
        return inside(space, lambda: socket.socket(family, socket.SOCK_DGRAM))


@pytest.fixture
def pair(new_space: Callable[[], Space]) -> Pair:
    node, a, b = new_space(), new_space(), new_space()
    for space in (node, a, b):
        space.shell("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    node.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for number, (space, addresses) in enumerate(((a, A), (b, B))):
        device = f"pod{number}"
        node.shell(
            f"ip link add {device} type veth peer name eth0 netns /proc/self/fd/{space.descriptor}",
            descriptors=(space.descriptor,),
        )
        four, six = (str(ip_address(addresses[version]) - 1) for version in (4, 6))
        node.shell(f"ip address add {four}/24 dev {device}; ip address add {six}/64 dev {device} nodad")
        node.shell(f"ip link set {device} up")
        space.shell(f"ip address add {addresses[4]}/24 dev eth0; ip address add {addresses[6]}/64 dev eth0 nodad")
        space.shell(f"ip link set lo up; ip link set eth0 up; ip route add default via {four}")
        space.shell(f"ip -6 route add default via {six}")
    pair = Pair(node, a, b)
    for version in (4, 6):  # until the neighbours have found each other
        assert any(pair.reaches(version, INSIDE) for _ in range(PATIENCE))
    return pair


@pytest.fixture
async def nft_table(pair: Pair) -> AsyncIterator[KernelNftTable]:
    nft_table = KernelNftTable(NetnsThread(pair.node.descriptor))
    await nft_table.start()
    await nft_table.sync(Transaction())
    yield nft_table
    await nft_table.stop()


def judged(
    version: int, *rules: Rule, sets: tuple[SetSpec, ...] = (), put: tuple[ElementBatch, ...] = ()
) -> Transaction:
    """b's ingress is judged by these rules, and dropped after them."""
    chain = Chain("class", (*rules, Rule((), DROP, "the rest", counter=True)))
    element = ElementBatch(f"ingress{version}", packed(B[version]), verdict=Verdict("jump", "class"))
    return Transaction(put_sets=sets, put_chains=(chain,), put=(element, *put))


def packed(address: str) -> bytes:
    return ip_address(address).packed


def port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


UDP = bytes((socket.IPPROTO_UDP, 0, 0, 0))
TCP = bytes((socket.IPPROTO_TCP, 0, 0, 0))
versions = pytest.mark.parametrize("version", [4, 6])


def ip(version: int, end: str) -> str:
    return f"{'ip' if version == 4 else 'ip6'} {end}"


@versions
async def test_a_class_drops_what_no_rule_returns(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    assert pair.reaches(version, INSIDE)
    await nft_table.apply(judged(version))
    assert not pair.reaches(version, INSIDE)
    assert "counter packets 1 " in pair.node.run("nft", "list", "chain", "inet", "percale", "class")
    await nft_table.sync(Transaction())
    assert pair.reaches(version, INSIDE)


@versions
async def test_ranges_of_ports_per_protocol(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    allowed = Rule((InSet(("l4proto", "th dport"), "ports"),), RETURN, "ports")
    ranges = UDP + port(5000) + UDP + port(5010) + TCP + port(ABOVE) + TCP + port(ABOVE) + UDP + port(1) + UDP + port(9)
    await nft_table.apply(judged(version, allowed, sets=(PORTS,), put=(ElementBatch("ports", ranges),)))
    assert [pair.reaches(version, number) for number in (4999, 5000, INSIDE, 5010, ABOVE)] == [
        False,
        True,
        True,
        True,
        False,
    ]


@versions
async def test_peers_by_address_and_by_network(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    source = ip(version, "saddr")
    rules = tuple(
        Rule((InSet((source,), name),), RETURN, name)  # type: ignore[arg-type]
        for name in (PODS[version].name, NETS[version].name)
    )
    await nft_table.apply(judged(version, *rules, sets=(PODS[version], NETS[version])))
    assert not pair.reaches(version, INSIDE)
    await nft_table.apply(Transaction(put=(ElementBatch(PODS[version].name, packed(A[version])),)))
    assert pair.reaches(version, INSIDE)
    await nft_table.apply(Transaction(remove=(ElementBatch(PODS[version].name, packed(A[version])),)))
    assert not pair.reaches(version, INSIDE)
    network = ip_network(f"{A[version]}/{28 if version == 4 else 120}", strict=False)
    whole = network.network_address.packed + network.broadcast_address.packed
    await nft_table.apply(Transaction(put=(ElementBatch(NETS[version].name, whole),)))
    assert pair.reaches(version, INSIDE)
    beyond = (int(ip_address(A[version])) + 1).to_bytes(
        len(packed(A[version])), "big"
    ) + network.broadcast_address.packed
    await nft_table.apply(
        Transaction(remove=(ElementBatch(NETS[version].name, whole),), put=(ElementBatch(NETS[version].name, beyond),))
    )
    assert not pair.reaches(version, INSIDE)


@versions
async def test_a_network_up_to_the_last_address_there_is(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    allowed = Rule((InSet((ip(version, "saddr"),), NETS[version].name),), RETURN, "all above")  # type: ignore[arg-type]
    first = packed(A[version])
    everything = ElementBatch(NETS[version].name, first + b"\xff" * len(first))
    await nft_table.apply(judged(version, allowed, sets=(NETS[version],), put=(everything,)))
    assert pair.reaches(version, INSIDE)
    await nft_table.apply(Transaction(remove=(everything,)))
    assert not pair.reaches(version, INSIDE)


@versions
async def test_named_ports_are_a_pod_and_its_port(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    named = NAMED[version]
    allowed = Rule((InSet((ip(version, "daddr"), "l4proto", "th dport"), named.name),), RETURN, "dns")  # type: ignore[arg-type]
    keys = packed(B[version]) + UDP + port(INSIDE) + packed(A[version]) + UDP + port(ABOVE)
    await nft_table.apply(judged(version, allowed, sets=(named,), put=(ElementBatch(named.name, keys),)))
    assert pair.reaches(version, INSIDE)
    assert not pair.reaches(version, ABOVE)


@versions
async def test_single_values_and_ranges_within_a_rule(pair: Pair, nft_table: KernelNftTable, version: int) -> None:
    address = int(ip_address(A[version]))
    source = Between(ip(version, "saddr"), address - 2, address)  # type: ignore[arg-type]
    allowed = Rule((source, Equals("l4proto", 17), Between("th dport", 5000, 5010)), RETURN, "some")
    single = Rule((Equals("l4proto", 17), Equals("th dport", 7)), Verdict("accept"), "one")
    await nft_table.apply(judged(version, allowed, single))
    assert [pair.reaches(version, number) for number in (7, 8, INSIDE, ABOVE)] == [True, False, True, False]


async def test_the_other_family_is_not_meant(pair: Pair, nft_table: KernelNftTable) -> None:
    four = Rule((Between("ip saddr", 0, 0xFFFF_FFFF),), RETURN, "all of IPv4")
    await nft_table.apply(judged(6, four))
    assert not pair.reaches(6, INSIDE)


async def test_a_chain_is_changed_without_a_moment_between(pair: Pair, nft_table: KernelNftTable) -> None:
    """Packets that both the old and the new rules allow all pass, while the rules change many times."""
    both = [Rule((Equals("l4proto", 17), Equals("th dport", INSIDE)), RETURN, f"{number}") for number in range(2)]
    await nft_table.apply(judged(4, both[0]))
    family = socket.AF_INET
    client, server = (pair._socket(space, family) for space in (pair.a, pair.b))
    with client, server:
        server.bind(("", INSIDE))
        server.settimeout(5)
        for number in range(200):
            rules = (both[number % 2], Rule((), DROP, "the rest", counter=True))
            await nft_table.apply(Transaction(put_chains=(Chain("class", rules),)))
            client.sendto(b"%d" % number, (B[4], INSIDE))
        assert [int(server.recv(16)) for _ in range(200)] == list(range(200))
