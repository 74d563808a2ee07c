"""No packet of a pod gets into a tunnel between nodes, by whatever way: what is in it comes out behind all guards."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import NamedTuple

import pytest
from tests import builders
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.policies import DENY, PORT, Policies, allowing
from tests.kernel.agent.services import SERVICES, Services
from tests.kernel.agent.sniffing import Sniffer
from tests.kernel.streams import MAGIC, datagrams
from tests.waiting import until

TUNNEL_PORT = 8472
OTHER_PORT = 5353
"""Leads to a tunnel's."""
ROUNDS = 20
NODES = {4: ("192.168.0.1", "192.168.0.2"), 6: ("fd00::1", "fd00::2")}
DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}
WIRINGS = pytest.mark.parametrize("wiring", ["routed", "bridge"])
BOTH = pytest.mark.parametrize("version", [4, 6])


class World(NamedTuple):
    """A server on each node, which only the friend on the other one may reach, and a forger on each node."""

    nodes: list[Node]
    servers: list[Pod]
    friends: list[Pod]
    forgers: list[Pod]

    def payload(self, at: int, version: int) -> bytes:
        """For the tunnel of this node: a datagram to its server, from its friend."""
        link = self.nodes[at].ip("-o", "link", "show", DEVICES[version])
        mac = link.partition("link/ether ")[2].split()[0]
        return in_a_tunnel(1, mac, self.friends[at].addresses[0], self.servers[at].addresses[0])

    def speak(self, targets: dict[int, list[tuple[str, int]]], version: int, *, link_local: bool = False) -> None:
        """Both forgers send what is for each node's tunnel to these addresses and ports."""
        payloads = {at: self.payload(at, version) for at in targets}
        for forger in self.forgers:
            own = link_local_address(forger) if link_local else forger.addresses[version == 6]
            with closing(datagrams(NETNS / forger.name, own)) as client:
                for _ in range(ROUNDS):
                    for at, target in ((at, each) for at, some in targets.items() for each in some):
                        with suppress(OSError):  # nobody has a gateway's address where pods are routed
                            client.sendto(payloads[at], target)
                    time.sleep(0.01)

    @contextmanager
    def nothing_gets_in(self, version: int) -> Iterator[None]:
        """And yet what a node sends to another one's tunnel does, so that it would have worked."""
        with ExitStack() as opened:
            sniffers = [opened.enter_context(closing(Sniffer(server.name))) for server in self.servers]
            yield
            assert [sniffer.look() for sniffer in sniffers] == [set(), set()]
            for at, sniffer in enumerate(sniffers):
                there, other = NODES[version][at], 1 - at
                with closing(datagrams(NETNS / self.nodes[other].name, NODES[version][other])) as node:
                    payload = self.payload(at, version)
                    until(lambda: node.sendto(payload, (there, TUNNEL_PORT)) and sniffer.look(), "a node's own gets in")  # noqa: B023


@pytest.fixture
def policies(cluster: Cluster) -> Policies:
    return Policies(cluster)


def world(cluster: Cluster, policies: Policies, wiring: str = "routed") -> World:
    cluster.network = DUAL
    nodes = [cluster.node(number, ipv6=True) for number in (1, 2)]
    for node in nodes:
        node.settings |= SERVICES
        node.settings["cni"]["wiring"] = wiring
        node.start()
    policies.policy("deny", DENY)
    servers, friends, forgers = [], [], []
    for node, other in (nodes, reversed(nodes)):
        server, friend = f"server-{node.name}", f"friend-{node.name}"
        policies.policy(server, allowing(server, friend))
        servers.append(policies.pod(node, server))
        friends.append(policies.pod(other, friend))
        forgers.append(policies.pod(node, f"forger-{node.name}"))
    return World(nodes, servers, friends, forgers)


def link_local_address(pod: Pod) -> str:
    """With its scope, once it may be used."""
    shown = ("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link", "-tentative")
    index, _, _, address, *_ = until(lambda: sh(pod.name, *shown).split())
    return f"{address.partition('/')[0]}%{index.rstrip(':')}"


def in_a_tunnel(vni: int, mac: str, source: str, destination: str) -> bytes:
    """A VXLAN packet's payload: a datagram from one address to another, for the node with this MAC."""
    data = struct.pack("!HHHH", 9, PORT, 8 + len(MAGIC), 0) + MAGIC
    addresses = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    frame = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000000") + b"\x08\x00" + head + data
    return struct.pack("!II", 0x08000000, vni << 8) + frame


@WIRINGS
@BOTH
def test_a_pod_speaks_to_no_tunnel(cluster: Cluster, policies: Policies, wiring: str, version: int) -> None:
    """It listens at all addresses of its node."""
    made = world(cluster, policies, wiring)
    targets: dict[int, list[tuple[str, int]]] = {}
    for at, node in enumerate(made.nodes):
        tunnel, gateway, *_ = islice(ip_network(node.status.subnets[version == 6]), 2)
        targets[at] = [(each, TUNNEL_PORT) for each in (NODES[version][at], str(tunnel), str(gateway))]
    with made.nothing_gets_in(version):
        made.speak(targets, version)


@WIRINGS
@BOTH
def test_nor_where_others_translate(cluster: Cluster, policies: Policies, wiring: str, version: int) -> None:
    """The node that translates may be another than the pod's, which then is not seen to be the source."""
    made = world(cluster, policies, wiring)
    family, spelled = {4: ("ip", "{}:{}"), 6: ("ip6", "[{}]:{}")}[version]
    ports = {at: OTHER_PORT + at for at in range(2)}
    for node in made.nodes:
        leading = "; ".join(
            f"fib daddr type local udp dport {ports[at]} dnat to {spelled.format(NODES[version][at], TUNNEL_PORT)}"
            for at in ports
        )
        node.sh(
            "nft",
            f"table {family} others {{ chain pre {{ type nat hook prerouting priority dstnat; {leading}; }};"
            " chain post { type nat hook postrouting priority srcnat; ct status dnat masquerade; }; }",
        )
    targets = {at: [(entry, port) for entry in NODES[version]] for at, port in ports.items()}
    with made.nothing_gets_in(version):
        made.speak(targets, version)
        if version == 6:
            made.speak(targets, version, link_local=True)


@WIRINGS
def test_nor_by_a_service_whose_endpoint_is_one(cluster: Cluster, policies: Policies, wiring: str) -> None:
    """Whoever may write EndpointSlices may name any address."""
    made = world(cluster, policies, wiring)
    with closing(Services(cluster)) as services:
        for number in (1, 2):
            services.node(number)
        targets: dict[int, list[tuple[str, int]]] = {0: [], 1: []}
        for at, node in enumerate(made.nodes):
            for number, endpoint in enumerate((NODES[4][at], str(ip_network(node.subnet)[0]))):
                name, vip, node_port = f"to-{at}-{number}", f"10.96.0.1{at}{number}", 30080 + 2 * at + number
                targets[at] += tunnel_service(services, made, name, endpoint, vip, node_port)
        with made.nothing_gets_in(4):
            made.speak(targets, 4)


def tunnel_service(
    services: Services, made: World, name: str, endpoint: str, vip: str, node_port: int
) -> Iterator[tuple[str, int]]:
    """Where a service listens whose endpoint has a tunnel's port, once all nodes know it."""
    ports = [{"port": 80, "targetPort": TUNNEL_PORT, "protocol": "UDP", "nodePort": node_port}]
    services.write(f"service-{name}", builders.service(name, type="NodePort", clusterIP=vip, ports=ports))
    at_endpoint = [{"port": TUNNEL_PORT, "protocol": "UDP"}]
    services.write(f"slice-{name}", builders.endpoint_slice(name, endpoint, ports=at_endpoint))
    until(lambda: all(told(node, name, endpoint, node_port) for node in made.nodes))
    yield vip, 80
    yield from ((each, node_port) for each in NODES[4])


def told(node: Node, name: str, endpoint: str, node_port: int) -> bool:
    """The node's map of endpoints has it, or the agent says why not."""
    entry = f"udp . {node_port} . 0 : {endpoint} . {TUNNEL_PORT}"
    problem = f"EndpointSlice default/{name}-1: {endpoint}:{TUNNEL_PORT}/UDP is the tunnel of a node, and no endpoint"
    known = entry in node.sh("nft", "list map inet percale-services endpointsports4")
    refused = any(problem in each.error for each in node.status.problems)
    assert not (known and refused)
    return known or refused


def test_a_pods_own_port_of_that_number_is_no_tunnel(cluster: Cluster, policies: Policies) -> None:
    made = world(cluster, policies)
    server, friend = made.servers[0], made.friends[0]
    own = server.addresses[0]
    with (
        closing(Services(cluster)) as services,
        closing(datagrams(NETNS / server.name, own, TUNNEL_PORT)) as listening,
        closing(datagrams(NETNS / friend.name, friend.addresses[0])) as client,
    ):
        at_vip, *_ = tunnel_service(services, made, "pods", own, "10.96.0.10", 30080)
        for target in ((own, TUNNEL_PORT), at_vip):
            until(lambda target=target: client.sendto(b"hello", target) and arrived(listening), str(target))  # type: ignore[misc]


def arrived(listening: socket.socket) -> bytes:
    """What came, if anything did."""
    try:
        return listening.recv(100)
    except BlockingIOError:
        return b""
