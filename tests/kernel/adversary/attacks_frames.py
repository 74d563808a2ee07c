"""Below IP: tags and other wrappings, ARP and neighbour discovery, others' MACs, link-local talk, the node's neighbours."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_tunnels import VICTIMS, plainly
from tests.kernel.adversary.worlds import Attempt, Family, World, attack
from tests.kernel.agent.cluster import sh
from tests.kernel.agent.policies import PORT
from tests.waiting import until

PAIRS = (("attacker1", "victim1", "friend1"), ("attacker2", "victim2", "friend2"))
"""Of one node each."""
LLDP = "01:80:c2:00:00:0e"
"""A bridge hands what is sent there to the port it came by."""
ALL_NODES = ("ff02::1", "33:33:00:00:00:01")
_MANY = 400
_NOBODY = "02:00:00:00:66:66"


def control_by_friends(world: World, attempt: Attempt, family: Family) -> None:
    """What the friend on the same node may send."""
    for _, victim, friend in PAIRS:
        attempt.control(victim, plainly(world, friend, victim, family))


def wrapped(frame: bytes) -> Iterator[bytes]:
    """The same packet in everything that a bridge, or br_netfilter, may look through."""
    yield frames.tagged(frame)
    yield frames.tagged(frame, priority=7)
    yield frames.tagged(frame, 5)
    yield frames.tagged(frame, 0, frames.SERVICE_VLAN)
    yield frames.tagged(frames.tagged(frame))
    yield frames.tagged(frames.tagged(frame), 0, frames.SERVICE_VLAN)
    yield frames.snap(frame)
    yield frames.pppoe(frame)
    yield frames.tagged(frames.pppoe(frame))
    yield frames.tagged(frames.snap(frame))


@attack()
def a_tag_hides_nothing(world: World, family: Family) -> None:
    """A tagged frame's packet, or one in another wrapping, is dropped or judged: with the own source and with a friend's."""
    with world.attempt(*VICTIMS) as attempt:
        for attacker, victim, friend in PAIRS:
            target = world.address(victim, family)
            for source in (world.address(attacker, family), world.address(friend, family)):
                packet = frames.packet(source, target, frames.udp(40000, PORT, attempt.forbidden))
                for frame in wrapped(world.frame(attacker, packet, target)):
                    world.inject(attacker, frame)
        control_by_friends(world, attempt, family)


@attack()
def another_pods_mac_and_address(world: World, family: Family) -> None:
    """A friend's address, from the own MAC and from the friend's, and the own address from a friend's MAC."""
    with world.attempt(*VICTIMS) as attempt:
        for attacker, victim, friend in PAIRS:
            target, next_mac = world.address(victim, family), world.next_mac(attacker, world.address(victim, family))
            for liar, mac in ((friend, attacker), (friend, friend), (attacker, friend)):
                packet = frames.packet(world.address(liar, family), target, frames.udp(40000, PORT, attempt.forbidden))
                world.inject(attacker, frames.ethernet(world.mac(mac), next_mac, packet))
        control_by_friends(world, attempt, family)


@attack()
def everybodys_address_is_no_way_in(world: World, family: Family) -> None:
    """What is for a group, for everybody or for a link-local address is for nobody whom a policy could protect."""
    with world.attempt(*VICTIMS) as attempt:
        for attacker, victim, _ in PAIRS:
            own, mac, theirs = world.address(attacker, family), world.mac(attacker), world.mac(victim)
            if family == 4:
                sources = [own, "0.0.0.0"]
                targets = [own.rpartition(".")[0] + ".255", "255.255.255.255", "224.0.0.1"]
            else:
                sources = [own, frames.link_local(mac), frames.link_local(world.mac(f"friend{attacker[-1]}")), "::"]
                targets = [ALL_NODES[0], frames.link_local(theirs)]
            for source in sources:
                for target in targets:
                    packet = frames.packet(source, target, frames.udp(40000, PORT, attempt.forbidden))
                    for to in (theirs, frames.BROADCAST, ALL_NODES[1]):
                        world.inject(attacker, frames.ethernet(mac, to, packet))
        control_by_friends(world, attempt, family)


@attack(families=(6,))
def neighbour_discovery_is_no_channel(world: World, family: Family) -> None:
    """ICMPv6 133 to 137 with a message in it reaches no pod, near or far, whatever the source and the hop limit."""
    kinds = range(frames.ROUTER_SOLICITATION, frames.REDIRECT + 1)
    with world.attempt(*VICTIMS) as attempt:
        tail = attempt.forbidden.ljust(30)
        option = bytes((200, 4)) + tail
        for attacker, _, friend in PAIRS:
            for victim in VICTIMS:
                target, mac = world.address(victim, family), world.mac(attacker)
                sources = (
                    world.address(attacker, family),
                    frames.link_local(mac),
                    frames.link_local(world.mac(friend)),
                    world.address(friend, family),
                )
                for source in sources:
                    for kind in kinds:
                        for hops in (255, 254, 64):
                            segment = frames.discovery(kind, bytes(20), option)
                            for extensions in ((), (frames.options(),), (frames.fragment(),)):
                                packet = frames.packet(source, target, segment, hops=hops, extensions=extensions)
                                world.inject(attacker, world.frame(attacker, packet, target))
                short = frames.discovery(frames.NEIGHBOUR_ADVERTISEMENT, bytes(4), attempt.forbidden.ljust(16))
                for hops in (255, 64):
                    packet = frames.packet(sources[0], target, short, hops=hops)
                    world.inject(attacker, world.frame(attacker, packet, target))
        control_by_friends(world, attempt, family)


def lies(world: World, attacker: str, address: str, hearers: tuple[str, ...]) -> Iterator[bytes]:
    """That this address is the attacker's; told to everybody and to each of the MACs."""
    mac = world.mac(attacker)
    if ":" not in address:
        for to in hearers:
            yield frames.arp(frames.ANSWER, mac, address, address, to)
            yield frames.arp(frames.ASK, mac, address, world.address(attacker, 4), to)
            yield frames.tagged(frames.arp(frames.ANSWER, mac, address, address, to))
        yield frames.arp(frames.ASK, mac, address, address)
        yield frames.arp(frames.ANSWER, mac, address, address, frames.BROADCAST)
        return
    own = (world.address(attacker, 6), frames.link_local(mac), address)
    for source in own:
        for said in (
            frames.neighbour_advertisement(address, mac),
            frames.neighbour_advertisement(address, mac, solicited=True),
            frames.redirect(frames.link_local(mac), address, mac),
        ):
            packet = frames.packet(source, ALL_NODES[0], said, hops=255)
            for to in (*hearers, ALL_NODES[1]):
                yield frames.ethernet(mac, to, packet)
                yield frames.tagged(frames.ethernet(mac, to, packet))
    asking = frames.packet(address, ALL_NODES[0], frames.neighbour_solicitation(own[0], mac), hops=255)
    yield from (frames.ethernet(mac, to, asking) for to in (*hearers, ALL_NODES[1]))


def stray(world: World, attacker: str, mac: str) -> Iterator[bytes]:
    """Frames from another's MAC, so that the bridge looks for it at the attacker's port."""
    own = world.address(attacker, 4)
    packet = frames.packet(own, own, frames.udp(1, 1))
    for to in (world.mac(attacker), frames.BROADCAST, LLDP, "01:80:c2:00:00:03", "01:80:c2:00:00:00"):
        yield frames.ethernet(mac, to, packet)
        yield frames.tagged(frames.ethernet(mac, to, packet))
        yield frames.ethernet(mac, to, bytes(46), 0x88CC)


def ask(namespace: str, target: str, mark: bytes) -> bool:
    """An echo request with the mark in it, sent by the namespace's own kernel; whether there was an answer."""
    said = sh(namespace, "ping", "-n", "-c1", "-W2", "-p", mark.hex(), target, check=False)
    return " 0% packet loss" in said


@attack(only={"bridge"})
def nobody_takes_anothers_traffic(world: World, family: Family) -> None:
    """ARP, neighbour discovery and frames in another's name: what friend and node send to the victim goes to the victim."""
    with world.attempt("attacker1") as attempt:
        victim, gateway = world.address("victim1", family), gateway_of(world, "attacker1", family)
        hearers = (world.mac("friend1"), world.mac("victim1"), world.gateway_mac("attacker1"))
        for sender in ("friend1", "n1"):
            assert ask(sender, victim, b"warm")
        for _ in range(3):
            for address in (victim, gateway):
                for frame in lies(world, "attacker1", address, hearers):
                    world.inject("attacker1", frame)
            for mac in hearers:
                for frame in stray(world, "attacker1", mac):
                    world.inject("attacker1", frame)
            assert ask("friend1", victim, attempt.forbidden)
            assert ask("n1", victim, attempt.forbidden)
            assert ask("friend1", gateway, attempt.forbidden)
        attacker = world.address("attacker1", family)
        attempt.control("attacker1", lambda mark: ask("n1", attacker, mark))


@attack(only={"bridge"})
def nobody_hears_what_is_flooded(world: World, family: Family) -> None:
    """A frame for a MAC that the bridge does not know comes to every port; a pod gets it for its own address only."""
    with world.attempt("attacker1") as attempt:
        source = world.address("friend1", family)
        victim, attacker = world.address("victim1", family), world.address("attacker1", family)
        packet = frames.packet(source, victim, frames.udp(40000, PORT, attempt.forbidden))
        world.inject("friend1", frames.ethernet(world.mac("friend1"), _NOBODY, packet), 3)
        attempt.control("attacker1", lambda mark: ask("n1", attacker, mark))


def gateway_of(world: World, name: str, family: Family) -> str:
    """Where the pod's default route points."""
    return sh(name, "ip", f"-{family}", "route", "show", "default").split()[2]


def known(node: str) -> set[str]:
    """The addresses in the node's neighbour tables, whatever their state."""
    return {line.split()[0] for line in sh(node, "ip", "neighbour", "show", "nud", "all").splitlines()}


@attack()
def nobody_fills_the_nodes_table(world: World, family: Family) -> None:
    """Hundreds of senders that are not there: the node learns none of them, and still knows its pods."""
    mac, own = world.mac("attacker1"), world.address("attacker1", family)
    gateway, gateway_mac = gateway_of(world, "attacker1", family), world.gateway_mac("attacker1")
    until(lambda: "tentative" not in sh("n1", "ip", "-6", "address"), "the node receives neighbour discovery")
    invented: set[str] = set()
    for number in range(_MANY):
        if family == 4:
            address = f"10.244.{100 + number // 200}.{1 + number % 200}"
            sent = [
                frames.arp(frames.ASK, mac, address, gateway),
                frames.arp(frames.ASK, mac, address, "192.168.0.1"),
                frames.ethernet(mac, gateway_mac, frames.packet(address, gateway, frames.echo(4))),
            ]
        else:
            address = f"fe80::66:{number:x}" if number % 2 else f"fd00:244::66:{number:x}"
            asked = frames.link_local(gateway_mac)
            sent = [
                frames.ethernet(mac, gateway_mac, frames.packet(address, asked, segment, hops=255))
                for segment in (
                    frames.neighbour_solicitation(asked, mac),
                    frames.neighbour_advertisement(address, mac),
                    frames.router_solicitation(mac),
                    frames.router_advertisement(mac),
                    frames.echo(6),
                )
            ]
            sent.append(
                frames.ethernet(
                    mac, gateway_mac, frames.packet(own, asked, frames.neighbour_advertisement(address, mac), hops=255)
                )
            )
        invented.add(address)
        for frame in sent:
            world.inject("attacker1", frame)
            world.inject("attacker1", frames.tagged(frame))
            world.inject("attacker1", frames.mac_bytes(LLDP) + frame[6:])
    time.sleep(0.2)  # what was sent is through
    assert not invented & known("n1")
    assert ask("n1", own, b"still there")
    assert ask("friend1", world.address("victim1", family), b"likewise")
