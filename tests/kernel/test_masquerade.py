"""Our nft tables with real packets: what is masqueraded, what is left alone, and whose packets are dropped.

Each packet asks a UDP socket to say from where it came. `stranger` is on the router's second segment, outside the cluster.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import DUAL, Fabric, Machine, Node, Pod, eventually
from tests.waiting import PATIENCE

from percale.model.addresses import IPAddress
from percale.render.network.node_elements import node_elements
from percale.render.network.pod_veth import bridged_source_elements, source_elements

VXLAN = {**DUAL, "Backend": {"Type": "vxlan"}}
BOTH = pytest.mark.parametrize("version", [4, 6])
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 5353
NODE_PORT = 8080
SILENCE = 0.2
"""Seconds without a packet that count as none, where none may come."""


@dataclass
class World:
    """Two nodes with a pod each, and a stranger who has a route to the pods by way of n1."""

    fabric: Fabric
    one: Node
    two: Node
    stranger: Machine

    async def masquerade(self, on: bool) -> None:
        for node in (self.one, self.two):
            networks = [subnets.supernet(new_prefix=16 if subnets.version == 4 else 48) for subnets in node.subnets]
            node.tables.declare("node/masquerade", node_elements(networks, node.subnets, masquerade=on))
            for pod in node.pods:
                wired = source_elements(f"pcl{pod.number}", map(ip_address, pod.addresses.values()))
                node.tables.declare(f"pod/{pod.number}", wired)
            await node.synced()


@pytest_asyncio.fixture
async def world(new_space: Callable[[], Space]) -> AsyncIterator[World]:
    fabric = Fabric(new_space)
    one, two = await fabric.node(1, VXLAN), await fabric.node(2, VXLAN)
    stranger = fabric.machine(9, 2)
    await fabric.meet(one, two)
    made = World(fabric, one, two, stranger)
    await made.masquerade(True)
    fabric.router.shell("ip route add 10.244.0.0/16 via 192.168.1.1; ip -6 route add fd00:244::/48 via fd00:1::1")
    for version in (4, 6):  # neighbours and tunnels are warm
        await eventually(partial(one.pods[0].pings, two.pods[0].addresses[version]))
        await eventually(partial(one.pings, "192.168.2.9" if version == 4 else "fd00:2::9"))
    yield made
    await fabric.down()


def seen_as(
    sender: Machine, receiver: Machine, to: str, *, source: tuple[str, int] | None = None, within: float = PATIENCE
) -> str | None:
    """The address from which the receiver's socket sees a packet of the sender; None if it does not arrive."""
    seen = exchange(sender, receiver, to, source=source, within=within)
    return seen[0] if seen is not None else None


def exchange(
    sender: Machine,
    receiver: Machine,
    to: str,
    *,
    port: int = PORT,
    source: tuple[str, int] | None = None,
    within: float = PATIENCE,
) -> tuple[str, int] | None:
    """A packet and, when it arrives, its answer; the answer must find its way back. Returns the source that was seen."""
    version = 6 if ":" in to else 4
    with closing(sender.socket(FAMILIES[version])) as near, closing(receiver.socket(FAMILIES[version])) as far:
        far.bind(("::" if version == 6 else "0.0.0.0", PORT))
        if source is not None:
            near.bind(source)
        near.sendto(b"who am I?", (to, port))
        far.settimeout(within)
        try:
            _, client = far.recvfrom(100)
        except TimeoutError:
            return None
        far.sendto(b"this", client)
        assert near.recvfrom(100)[0] == b"this"
    return str(client[0]), int(client[1])


def address(machine: Machine, version: int) -> str:
    """A machine's own, or a pod's."""
    if isinstance(machine, Pod):
        return machine.addresses[version]
    s, n = machine.segment, machine.number
    return f"192.168.{s}.{n}" if version == 4 else f"fd00:{s}::{n}"


# flannel's rules, one after the other


@BOTH
async def test_from_our_pods_to_the_outside_is_masqueraded(world: World, version: int) -> None:
    seen = seen_as(world.one.pods[0], world.stranger, address(world.stranger, version))
    assert seen == address(world.one, version)


@BOTH
async def test_from_pods_to_pods_is_not(world: World, version: int) -> None:
    one, two = world.one.pods[0], world.two.pods[0]
    assert seen_as(one, two, two.addresses[version]) == one.addresses[version]
    assert seen_as(two, one, one.addresses[version]) == two.addresses[version]


@BOTH
async def test_from_the_outside_to_our_pods_is_not(world: World, version: int) -> None:
    """They see the client."""
    pod = world.one.pods[0]
    assert seen_as(world.stranger, pod, pod.addresses[version]) == address(world.stranger, version)


@BOTH
async def test_from_the_outside_to_pods_of_other_nodes_is_masqueraded(world: World, version: int) -> None:
    """The answer must come back this way: the source is this node's tunnel address."""
    pod = world.two.pods[0]
    tunnel = "10.244.1.0" if version == 4 else "fd00:244:0:1::"
    assert seen_as(world.stranger, pod, pod.addresses[version]) == tunnel


@BOTH
async def test_from_the_node_to_any_pod(world: World, version: int) -> None:
    own, other = world.one.pods[0], world.two.pods[0]
    tunnel = "10.244.1.0" if version == 4 else "fd00:244:0:1::"
    assert seen_as(world.one, other, other.addresses[version]) == tunnel
    assert seen_as(world.one, own, own.addresses[version]) is not None


@BOTH
async def test_what_kube_proxy_marked_is_left_to_it(world: World, version: int) -> None:
    family, pod = ("ip", "ip6")[version == 6], world.one.pods[0]
    world.one.sh(
        f"nft 'table {family} kube {{ chain marks {{ type filter hook prerouting priority mangle; "
        f"{family} saddr {pod.addresses[version]} meta mark set mark or 0x4000; }}; }}'"
    )
    assert seen_as(pod, world.stranger, address(world.stranger, version)) == pod.addresses[version]


@pytest.mark.parametrize(("version", "group"), [(4, "224.0.0.251"), (6, "ff02::fb")])
async def test_multicast_from_the_pod_network_is_not_masqueraded(world: World, version: int, group: str) -> None:
    family, tunnel = FAMILIES[version], "10.244.1.0" if version == 4 else "fd00:244:0:1::"
    index, far_index = (int(node.sh("ip -o link show eth0").partition(":")[0]) for node in (world.one, world.two))
    with closing(world.one.socket(family)) as near, closing(world.two.socket(family)) as far:
        if version == 4:
            membership = socket.inet_aton(group) + socket.inet_aton("192.168.1.2")
            far.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            near.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.168.1.1"))
        else:
            joined = socket.inet_pton(socket.AF_INET6, group) + far_index.to_bytes(4, "little")
            far.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
            near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        far.bind(("", PORT))
        near.bind((tunnel, 0))
        near.sendto(b"all", (group, PORT))
        assert far.recvfrom(100)[1][0] == tunnel


@BOTH
async def test_ports_are_chosen_at_random(world: World, version: int) -> None:
    pod, to = world.one.pods[0], address(world.stranger, version)
    ports = {exchange(pod, world.stranger, to, source=(pod.addresses[version], 7000 + n)) for n in range(3)}
    assert not ports & {(address(world.one, version), 7000 + n) for n in range(3)}


@BOTH
async def test_a_pod_with_all_its_ports_towards_a_server_leaves_the_node_its_own(world: World, version: int) -> None:
    """They are masqueraded with the node's address: were all ports of it taken, no new flow of the node would get there."""
    pod, to = world.one.pods[0], address(world.stranger, version)
    with closing(pod.socket(FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_UDP)) as raw:
        if version == 6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
        while int(world.one.sh("cat /proc/sys/net/netfilter/nf_conntrack_count")) < 30_000:  # some packets are lost
            for port in range(1, 1 << 16):
                raw.sendto(struct.pack(">HHHH", port, PORT, 8, 0), (to, 0))
    for _ in range(50):
        seen = await asyncio.to_thread(exchange, world.one, world.stranger, to, within=SILENCE)
        assert seen is not None and seen[1] >= 32768


@BOTH
async def test_a_pod_with_all_identifiers_of_echo_requests_leaves_the_node_its_own(world: World, version: int) -> None:
    pod, to = world.one.pods[0], address(world.stranger, version)
    protocol, kind = (socket.IPPROTO_ICMP, 8) if version == 4 else (socket.IPPROTO_ICMPV6, 128)
    with closing(pod.socket(FAMILIES[version], socket.SOCK_RAW, protocol)) as raw:
        for identifier in range(1 << 16):
            total = (kind << 8) + identifier  # the sum of ICMPv6 is the kernel's
            raw.sendto(struct.pack(">BBHHH", kind, 0, ~(total + (total >> 16)) & 0xFFFF, identifier, 0), (to, 0))
    assert all(world.one.pings(to) for _ in range(30))


@BOTH
async def test_without_ip_masq_nothing_is_masqueraded(world: World, version: int) -> None:
    await world.masquerade(False)
    pod, other = world.one.pods[0], world.two.pods[0]
    assert seen_as(pod, world.stranger, address(world.stranger, version)) == pod.addresses[version]
    to_other = partial(seen_as, world.stranger, other, other.addresses[version], within=SILENCE)
    assert to_other() in (address(world.stranger, version), None)


# What others translate


@BOTH
@pytest.mark.parametrize("server", ["one", "two"], ids=["a pod here", "a pod on another node"])
async def test_a_port_of_the_node_that_others_forward_to_a_pod(world: World, version: int, server: str) -> None:
    """portmap and kube-proxy do so; pods are their clients too, and the answers must be translated back."""
    node: Node = getattr(world, server)
    pod = node.pods[0]
    family = ("ip", "ip6")[version == 6]
    target = f"{pod.addresses[4]}:{PORT}" if version == 4 else f"[{pod.addresses[6]}]:{PORT}"
    world.one.sh(
        f"nft 'table {family} portmap {{ chain pre {{ type nat hook prerouting priority dstnat; "
        f"udp dport {NODE_PORT} dnat to {target}; }}; }}'"
    )
    here = world.fabric.pod(world.one, 8)
    await world.masquerade(True)
    to = address(world.one, version)
    for client in (here, world.stranger, *([] if server == "two" else [world.two.pods[0]])):
        assert await asyncio.to_thread(exchange, client, pod, to, port=NODE_PORT) is not None, client.number


# Spoofed sources


def spoofed(node: Node, family: str) -> int:
    (packets,) = re.findall(r"packets (\d+)", node.sh(f"nft list counter {family} percale spoofed"))
    return int(packets)


@BOTH
async def test_a_pod_cannot_send_with_a_source_that_is_not_its_own(world: World, version: int) -> None:
    pod, other = world.one.pods[0], world.fabric.pod(world.one, 8)
    await world.masquerade(True)
    lie = other.addresses[version]
    pod.sh(f"ip addr add {lie} dev lo" + (" nodad" if version == 6 else ""))
    before = spoofed(world.one, ("ip", "ip6")[version == 6])
    assert seen_as(pod, world.stranger, address(world.stranger, version), source=(lie, 0), within=SILENCE) is None
    assert (
        seen_as(pod, world.two.pods[0], world.two.pods[0].addresses[version], source=(lie, 0), within=SILENCE) is None
    )
    assert spoofed(world.one, ("ip", "ip6")[version == 6]) == before + 2
    assert seen_as(pod, world.stranger, address(world.stranger, version)) == address(world.one, version)


@BOTH
async def test_a_pod_without_elements_sends_nothing(world: World, version: int) -> None:
    world.one.tables.declare("pod/7", ())
    await world.one.tables.wait_applied("pod/7")
    assert seen_as(world.one.pods[0], world.stranger, address(world.stranger, version), within=SILENCE) is None


async def test_a_pod_that_lost_its_permanent_neighbour_finds_it_by_its_own_address(world: World) -> None:
    pod = world.one.pods[0]
    pod.sh("ip neigh del fe80::ecee:eeff:feee:eeee dev eth0")
    assert await eventually(partial(pod.pings, str(address(world.one, 6))))


# On a bridge


def on_bridge(number: int) -> tuple[IPAddress, IPAddress]:
    return ip_address(f"10.244.1.{number}"), ip_address(f"fd00:244:0:1::{number}")


@pytest_asyncio.fixture
async def bridged(new_space: Callable[[], Space]) -> AsyncIterator[tuple[Node, Machine, Machine]]:
    """A node with `cni0`, and two pods on it."""
    fabric = Fabric(new_space)
    node = await fabric.node(1, VXLAN)
    node.sh("ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.244.1.1/24 dev cni0")
    node.sh("ip addr add fd00:244:0:1::1/64 dev cni0 nodad")
    pods = []
    for number in (20, 21):
        pod = Machine(fabric.router, new_space(), number, 1)
        node.sh(f"ip link add pcl{number} type veth peer name eth0 netns {pod.space.path}")
        node.sh(f"ip link set pcl{number} master cni0 up")
        pod.sh("for c in all default; do echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad; done; ip link set eth0 up")
        pod.sh(f"ip addr add 10.244.1.{number}/24 dev eth0; ip addr add fd00:244:0:1::{number}/64 dev eth0 nodad")
        pods.append(pod)
    node.tables.declare("node/masquerade", node_elements((), node.subnets, masquerade=False))
    for pod in pods:
        mac = pod.sh("ip -br link show eth0").split()[2]
        wired = bridged_source_elements(f"pcl{pod.number}", mac, on_bridge(pod.number))
        node.tables.declare(f"pod/{pod.number}", wired)
    await node.synced()
    yield node, pods[0], pods[1]
    await fabric.down()


@BOTH
async def test_pods_on_a_bridge(bridged: tuple[Node, Machine, Machine], version: int) -> None:
    node, one, two = bridged
    own, target = str(on_bridge(one.number)[version == 6]), str(on_bridge(two.number)[version == 6])
    assert await eventually(partial(one.pings, target))
    assert spoofed(node, "bridge") == 0
    lie, length = ("10.244.1.99", 24) if version == 4 else ("fd00:244:0:1::99", 64)
    one.sh(f"ip addr add {lie}/{length} dev eth0" + (" nodad" if version == 6 else ""))
    assert seen_as(one, two, target, source=(lie, 0), within=SILENCE) is None
    assert spoofed(node, "bridge") > 0
    assert seen_as(one, two, target, source=(own, 0)) == own


async def test_arp_on_a_bridge_cannot_claim_anothers_address(bridged: tuple[Node, Machine, Machine]) -> None:
    node, one, two = bridged
    assert await eventually(partial(two.pings, "10.244.1.1"))
    mac = re.findall(r"lladdr (\S+)", node.sh("ip neigh show 10.244.1.21"))
    liar, lie = bytes.fromhex("020000000666"), ip_address("10.244.1.21").packed
    frame = bytes(6 * [255]) + liar + bytes.fromhex("0806 0001 0800 06 04 0002") + liar + lie + liar + lie
    with closing(one.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        raw.sendto(frame, ("eth0", 0))
    assert re.findall(r"lladdr (\S+)", node.sh("ip neigh show 10.244.1.21")) == mac
    assert spoofed(node, "bridge") > 0
