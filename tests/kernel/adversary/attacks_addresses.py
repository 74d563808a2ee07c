"""What is sent to an address is for whoever has it: no host port and no Service takes it, and nobody gets to a node's loopback.

The thief is a pod of the attacker's; what a friend sends elsewhere must not arrive there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import builders
from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import NODE_ADDRESSES, SWITCH, Family, World, attack
from tests.kernel.agent.cluster import NETNS, Pod
from tests.kernel.agent.policies import PORT
from tests.kernel.inside import inside
from tests.waiting import PATIENCE, until

HOST_PORT, LOOPBACK_PORT, NODES_OWN = 31500, 31501, 31502
LOST: dict[Family, tuple[str, int]] = {4: ("192.168.0.99", 24), 6: ("fd00::99", 64)}
"""An address that node 1 has had."""
CLUSTER_IPS: dict[Family, str] = {4: "10.96.2.1", 6: "fd00:96::2:1"}
OUTSIDE: dict[Family, str] = {4: "198.51.100.9", 6: "2001:db8:9::9"}
"""An address that nobody has: a Service may ask for it."""


@contextmanager
def host_ports(world: World, name: str, *asked: dict[str, Any]) -> Iterator[Pod]:
    """A pod of node 1 that has them."""
    mappings = [{"containerPort": PORT, "protocol": "udp", **each} for each in asked]
    pod = world.nodes["n1"].pod(name, portMappings=mappings)
    try:
        yield pod
    finally:
        pod.cni("DEL")


@attack()
def a_host_port_at_anothers_address(world: World, family: Family) -> None:
    """At an address that the node had once, and with a port that is open everywhere: only what is sent to the node is taken."""
    node, (address, length) = world.nodes["n1"], LOST[family]
    node.ip("address", "add", f"{address}/{length}", "dev", "eth0", "nodad")
    thief = f"portthief{family}"
    with host_ports(world, thief, {"hostPort": PORT, "hostIP": address}, {"hostPort": HOST_PORT}):
        node.ip("address", "del", f"{address}/{length}", "dev", "eth0")
        with world.attempt(thief) as attempt:
            others = (address, SWITCH[family], NODE_ADDRESSES[family][1], world.address("victim1", family))
            for sender in ("friend1", "attacker1"):
                for target in others:
                    for port in (PORT, HOST_PORT):
                        world.datagram(sender, target, port, attempt.forbidden)
            here = NODE_ADDRESSES[family][0]
            attempt.control(thief, lambda mark: world.datagram("friend1", here, HOST_PORT, mark))


@attack(families=(4,))
def a_way_to_loopback(world: World, family: Family) -> None:
    """To a host port at 127.0.0.1, which only the node's processes may use, and from 127.0.0.1: by a pod and by a neighbour."""
    node, owner = world.nodes["n1"], "loopbackowner"
    # The first as kube-proxy does, the other as some load balancers want it.
    settings = ("net.ipv4.conf.all.route_localnet", "net.ipv4.conf.all.accept_local")
    before = {each: node.sh("sysctl", "-n", each).strip() for each in settings}
    node.sh("sysctl", "-q", "-w", *(f"{each}=1" for each in settings))
    here = NODE_ADDRESSES[family][0]
    asked = {"hostPort": LOOPBACK_PORT, "hostIP": "127.0.0.1"}, {"hostPort": HOST_PORT}
    try:
        with host_ports(world, owner, *asked), world.attempt(owner) as attempt:
            attacker = world.address("attacker1", family)
            ways = [(attacker, "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", here)]
            for source, target in ways:
                for port in (LOOPBACK_PORT, HOST_PORT):
                    sent = frames.packet(source, target, frames.udp(40001, port, attempt.forbidden))
                    world.inject("attacker1", world.frame("attacker1", sent, target))
                    neighbours = source if source == "127.0.0.1" else NODE_ADDRESSES[family][1]
                    next_door(world, neighbours, target, port, attempt.forbidden)

            def from_next_door(mark: bytes) -> None:
                next_door(world, NODE_ADDRESSES[family][1], here, HOST_PORT, mark)

            attempt.control(owner, from_next_door)
            with inside(NETNS / "n1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as process:
                process.bind(("", NODES_OWN))
                process.settimeout(PATIENCE)
                for source, target in (*ways[1:], (NODE_ADDRESSES[family][1], "127.0.0.1")):
                    next_door(world, source, target, NODES_OWN, attempt.forbidden)
                next_door(world, NODE_ADDRESSES[family][1], here, NODES_OWN, attempt.permitted)
                assert process.recv(64) == attempt.permitted
    finally:
        node.sh("sysctl", "-q", "-w", *(f"{name}={value}" for name, value in before.items()))


@attack(families=(4,))
def a_service_whose_endpoint_is_loopback(world: World, family: Family) -> None:
    """Whoever may write EndpointSlices may name 127.0.0.1: no pod and no neighbour gets to a node's processes by it."""
    node, here = world.nodes["n1"], NODE_ADDRESSES[family][0]
    before = node.sh("sysctl", "-n", "net.ipv4.conf.all.route_localnet").strip()
    node.sh("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
    written = external_service(world, family, [OUTSIDE[family]], "127.0.0.1")
    try:
        until(
            lambda: f"{OUTSIDE[family]} . udp . {PORT}" in node.sh("nft", "list map inet percale-services services4"),
            "known",
        )
        with inside(NETNS / "n1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as process:
            process.bind(("", PORT))
            process.settimeout(PATIENCE)
            for target in (CLUSTER_IPS[family], OUTSIDE[family]):
                world.datagram("attacker1", target, PORT, b"forbidden")
                next_door(world, NODE_ADDRESSES[family][1], target, PORT, b"forbidden")
            world.datagram("attacker1", here, PORT, b"permitted")
            assert process.recv(64) == b"permitted"
    finally:
        world.services.remove(written)
        node.sh("sysctl", "-q", "-w", f"net.ipv4.conf.all.route_localnet={before}")


def next_door(world: World, source: str, target: str, port: int, mark: bytes) -> None:
    """A datagram of node 2's, on the wire to node 1."""
    packet = frames.packet(source, target, frames.udp(40001, port, mark))
    world.inject("n2", frames.ethernet(world.mac("n2"), world.mac("n1"), packet))


@attack()
def an_external_ip_that_is_anothers(world: World, family: Family) -> None:
    """A Service that asks for the addresses of pods, nodes and Services: what is sent to them does not get to its endpoint."""
    taken = [world.address(f"victim{number}", family) for number in (1, 2)] + list(NODE_ADDRESSES[family])
    thief = f"ipthief{family}"
    with host_ports(world, thief) as endpoint:
        written = external_service(world, family, [*taken, OUTSIDE[family]], endpoint.addresses[family == 6])
        try:
            known = ("nft", f"list map inet percale-services services{family}")
            until(lambda: f"{OUTSIDE[family]} . udp . {PORT}" in world.nodes["n1"].sh(*known), "the node knows it")
            with world.attempt(thief) as attempt:
                for target in taken:
                    world.datagram("friend1", target, PORT, attempt.forbidden)
                attempt.control(thief, lambda mark: world.datagram("friend1", OUTSIDE[family], PORT, mark))
        finally:
            world.services.remove(written)


def external_service(world: World, family: Family, addresses: list[str], endpoint: str) -> str:
    """The name of its manifest."""
    name, vip = f"thief{family}", CLUSTER_IPS[family]
    ports = [{"port": PORT, "protocol": "UDP"}]
    families = [f"IPv{family}"]
    service = builders.service(
        name, clusterIP=vip, clusterIPs=[vip], ipFamilies=families, ports=ports, externalIPs=addresses
    )
    world.services.write(name, service, builders.endpoint_slice(name, endpoint, ports=ports))
    return name
