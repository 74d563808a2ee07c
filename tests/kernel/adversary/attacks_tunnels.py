"""What gets into a tunnel between nodes comes out behind all guards and policies: a pod's packet never does.

Each datagram holds the packet of a friend to a victim, for the tunnel of the victim's node to unpack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from itertools import product

from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import NODE_ADDRESSES, SWITCH, Attempt, Family, World, attack
from tests.kernel.agent.policies import PORT
from tests.waiting import until

ATTACKERS = ("attacker1", "attacker2")
VICTIMS = ("victim1", "victim2")
DEVICES: dict[Family, str] = {4: "flannel.1", 6: "flannel-v6.1"}
CLUSTER_IPS: dict[Family, str] = {4: "10.96.1.{}", 6: "fd00:96::1:{}"}
FIRST_PORT = 30100
"""Of nodes: there is one for each address that somebody leads to."""
VXLAN = ("vxlan", "direct")
TUNNELS = (*VXLAN, "udp")


def addresses_of(world: World, number: int, family: Family) -> tuple[str, str, str]:
    """A node's: the public one, the tunnel's and the gateway's."""
    subnet = ip_network(world.nodes[f"n{number}"].status.subnets[family == 6])
    return NODE_ADDRESSES[family][number - 1], str(subnet[0]), str(subnet[1])


def for_the_tunnel(world: World, number: int, family: Family, mark: bytes) -> frames.Segment:
    """Node `number` would hand its victim a datagram from the friend on the other node."""
    source, target = world.address(f"friend{3 - number}", family), world.address(f"victim{number}", family)
    inner = frames.packet(source, target, frames.udp(9, PORT, mark))
    if world.terms.backend == "udp":
        return frames.udp(40000, world.terms.tunnel_port, inner)
    mac = world.mac(f"n{number}", DEVICES[family]) if world.terms.backend in VXLAN else "02:00:00:00:00:01"
    return frames.vxlan(1, frames.ethernet("02:00:00:00:00:00", mac, inner), port=world.terms.tunnel_port)


def send(world: World, attacker: str, target: str, segment: frames.Segment, source: str | None = None) -> None:
    """From the attacker's own address, or another."""
    own = source or world.address(attacker, 6 if ":" in target else 4)
    world.inject(attacker, world.frame(attacker, frames.packet(own, target, segment), target))


def at_port(segment: frames.Segment, port: int) -> frames.Segment:
    """The same datagram to another port."""
    return frames.udp(40000, port, segment.body[8:])


@contextmanager
def nothing_gets_in(world: World, family: Family) -> Iterator[Attempt]:
    """Not to a victim, and not even from node 1 to node 2, which would have to be the one to drop it then."""
    with world.attempt(*VICTIMS, "n2") as attempt:
        yield attempt
        for number in (1, 2):
            friend, victim = f"friend{3 - number}", f"victim{number}"
            attempt.control(victim, plainly(world, friend, victim, family))
        attempt.control("n2", plainly(world, "friend1", "victim2", family))


def plainly(world: World, friend: str, victim: str, family: Family) -> Callable[[bytes], None]:
    return lambda mark: world.datagram(friend, world.address(victim, family), PORT, mark)


@attack()
def a_plain_datagram(world: World, family: Family) -> None:
    """The simplest one: send to a victim without being its friend. Policies drop it on either node."""
    with world.attempt(*VICTIMS) as attempt:
        for attacker, victim in product(ATTACKERS, VICTIMS):
            world.datagram(attacker, world.address(victim, family), PORT, attempt.forbidden)
        for number in (1, 2):
            friend, victim = f"friend{3 - number}", f"victim{number}"
            attempt.control(victim, plainly(world, friend, victim, family))


@attack()
def a_datagram_to_a_tunnel(world: World, family: Family) -> None:
    """Send to the tunnel's port at each address of each node. The pod's node drops it, its own tunnel's and the other one's."""
    with nothing_gets_in(world, family) as attempt:
        for number in (1, 2):
            segment = for_the_tunnel(world, number, family, attempt.forbidden)
            for target in addresses_of(world, number, family):
                send(world, "attacker1", target, segment)
    with world.attempt(*VICTIMS) as attempt:
        for number in (1, 2):
            segment = for_the_tunnel(world, number, family, attempt.forbidden)
            for target in addresses_of(world, number, family):
                send(world, "attacker2", target, segment)
            attempt.control(f"victim{number}", plainly(world, f"friend{3 - number}", f"victim{number}", family))


@attack(families=(6,))
def a_datagram_behind_other_headers(world: World, family: Family) -> None:
    """Options, a routing of fragments before the UDP header: whoever looks at a fixed place does not see the port."""
    with nothing_gets_in(world, family) as attempt:
        for number in (1, 2):
            segment = for_the_tunnel(world, number, family, attempt.forbidden)
            for target, extension in product(
                addresses_of(world, number, family),
                (frames.options(), frames.options(frames.HOP_BY_HOP), frames.fragment()),
            ):
                own = world.address("attacker1", family)
                packet = frames.packet(own, target, segment, extensions=(extension,))
                world.inject("attacker1", world.frame("attacker1", packet, target))


@attack(families=(6,))
def a_datagram_from_a_link_local_address(world: World, family: Family) -> None:
    """Every pod may have such an address, so the guard of sources lets it in; a tunnel does not take it."""
    with nothing_gets_in(world, family) as attempt:
        source = frames.link_local(world.mac("attacker1"))
        for number in (1, 2):
            segment = for_the_tunnel(world, number, family, attempt.forbidden)
            for target in addresses_of(world, number, family):
                send(world, "attacker1", target, segment, source)


@attack()
def a_translation_that_leads_to_a_tunnel(world: World, family: Family) -> None:
    """Somebody else's rules lead a node's port to a tunnel, and masquerade. The node that translates drops it."""
    targets = {
        FIRST_PORT + index: (number, target)
        for index, (number, target) in enumerate(
            (number, target) for number in (1, 2) for target in addresses_of(world, number, family)
        )
    }
    name, spelled = {4: ("ip", "{}:{}"), 6: ("ip6", "[{}]:{}")}[family]
    leading = "; ".join(
        f"fib daddr type local udp dport {port} dnat to {spelled.format(target, world.terms.tunnel_port)}"
        for port, (_, target) in targets.items()
    )
    for node in world.nodes.values():
        node.sh(
            "nft",
            f"table {name} others {{ chain pre {{ type nat hook prerouting priority dstnat; {leading}; }};"
            " chain post { type nat hook postrouting priority srcnat; ct status dnat masquerade; }; }",
        )
    try:
        by_node_ports(world, family, {port: number for port, (number, _) in targets.items()})
    finally:
        for node in world.nodes.values():
            node.sh("nft", f"delete table {name} others")


def by_node_ports(world: World, family: Family, ports: dict[int, int]) -> None:
    """Each port leads to the tunnel of a node; attackers send to it at both nodes."""
    with nothing_gets_in(world, family) as attempt:
        for port, number in ports.items():
            segment = at_port(for_the_tunnel(world, number, family, attempt.forbidden), port)
            send(world, "attacker1", NODE_ADDRESSES[family][0], segment)
    with world.attempt(*VICTIMS) as attempt:
        for (port, number), attacker, entry in product(ports.items(), ATTACKERS, NODE_ADDRESSES[family]):
            send(world, attacker, entry, at_port(for_the_tunnel(world, number, family, attempt.forbidden), port))
        for number in (1, 2):
            attempt.control(f"victim{number}", plainly(world, f"friend{3 - number}", f"victim{number}", family))


@attack()
def a_service_whose_endpoint_is_a_tunnel(world: World, family: Family) -> None:
    """Whoever may write EndpointSlices may name any address: by cluster IP and node port, nothing gets to a tunnel."""
    ports: dict[int, int] = {}
    written: list[str] = []
    for number in (1, 2):
        for target in addresses_of(world, number, family)[:2]:
            port = FIRST_PORT + 10 + len(ports)
            written.append(tunnel_service(world, family, len(ports), target, port))
            ports[port] = number
    written.append(tunnel_service(world, family, 90, world.address("victim1", family), FIRST_PORT + 90))
    try:
        last = FIRST_PORT + 90
        known = ("nft", f"list map inet percale-services endpointsports{family}")
        until(lambda: all(f"udp . {last} . 0 : " in node.sh(*known) for node in world.nodes.values()), "nodes know")
        by_node_ports(world, family, ports)
        with world.attempt(*VICTIMS) as attempt:
            for (index, number), attacker in product(enumerate(ports.values()), ATTACKERS):
                segment = at_port(for_the_tunnel(world, number, family, attempt.forbidden), 80)
                send(world, attacker, CLUSTER_IPS[family].format(index + 1), segment)
            for number in (1, 2):
                attempt.control(f"victim{number}", plainly(world, f"friend{3 - number}", f"victim{number}", family))
    finally:
        for name in written:
            world.services.remove(name)


def tunnel_service(world: World, family: Family, index: int, endpoint: str, node_port: int) -> str:
    """A Service with one endpoint; the name of its manifest."""
    name = f"tunnel{family}-{index}"
    port = {"port": 80, "targetPort": world.terms.tunnel_port, "protocol": "UDP", "nodePort": node_port}
    world.write_service(name, CLUSTER_IPS[family].format(index + 1), endpoint, port)
    return name


@attack(only=TUNNELS)
def a_tunnel_packet_from_no_peer(world: World, family: Family) -> None:
    """Whatever a node far away let out: a tunnel takes what peers send to its public address, and nothing else.

    The frames leave node 1 behind all of its guards, as those of a machine without any would.
    """
    public, tunnel, gateway = addresses_of(world, 2, family)
    peer = NODE_ADDRESSES[family][0]

    def outer(source: str, target: str, mark: bytes) -> bytes:
        packet = frames.packet(source, target, for_the_tunnel(world, 2, family, mark))
        return frames.ethernet(world.mac("n1"), world.mac("n2"), packet)

    with world.attempt("victim2") as attempt:
        for source, target in (
            *((each, public) for each in (SWITCH[family], world.address("attacker1", family), public)),
            *((addresses_of(world, 1, family)[1], each) for each in (public, tunnel)),
            *((peer, each) for each in (tunnel, gateway)),
        ):
            world.inject("n1", outer(source, target, attempt.forbidden))
        attempt.control("victim2", lambda mark: world.inject("n1", outer(peer, public, mark)))


@attack()
def a_port_that_has_a_tunnels_number(world: World, family: Family) -> None:
    """Between pods it is a port like any other: its flows are tracked, so what was asked for is let in, and nothing else.

    A victim asks an attacker at that port and gets the answer; what the attacker sends unasked does not arrive.
    """
    for attacker, number in product(ATTACKERS, (1, 2)):
        victim = f"victim{number}"
        own, there = world.address(victim, family), world.address(attacker, family)

        with world.attempt(victim) as attempt:
            answered(world, attacker, own, attempt.forbidden, 40001)
            attempt.control(victim, partial(asked_and_answered, world, victim, attacker, (own, there)))


def answered(world: World, attacker: str, own: str, mark: bytes, port: int = 40000) -> None:
    send(world, attacker, own, frames.udp(world.terms.tunnel_port, port, mark))


def asked_and_answered(world: World, victim: str, attacker: str, both: tuple[str, str], mark: bytes) -> None:
    own, there = both
    send(world, victim, there, frames.udp(40000, world.terms.tunnel_port, b"?"))
    time.sleep(0.05)
    answered(world, attacker, own, mark)
