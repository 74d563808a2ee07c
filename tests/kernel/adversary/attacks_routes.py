"""Ways around: routes that a packet names itself, packets in packets, and first packets with more than a flag."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_frames import PAIRS
from tests.kernel.adversary.worlds import NODE_ADDRESSES, Family, World, attack
from tests.kernel.agent.policies import PORT

LOOSE, STRICT = 131, 137
"""IPv4's options."""
IPIP, GRE = {4: 4, 6: 41}, 47
SCTP, TCP = 132, 6
FAST_OPEN, MD5 = bytes((34, 10)) + bytes(8) + b"\1\1", bytes((19, 18)) + bytes(16) + b"\1\1"
"""TCP options: a cookie, a signature."""


def with_option(packet: bytes, kind: int, hop: str) -> bytes:
    """An IPv4 packet that is to go on to `hop`."""
    option = bytes((kind, 7, 4)) + ip_address(hop).packed + b"\0"
    head = bytes((0x47,)) + packet[1:2] + (len(packet) + 8).to_bytes(2, "big") + packet[4:10] + b"\0\0" + packet[12:20]
    head += option
    return head[:10] + frames.checksum(head).to_bytes(2, "big") + head[12:] + packet[20:]


def routed_by(source: str, first: str, last: str, mark: bytes) -> Iterator[bytes]:
    """To the first, who is to send it on to the last."""
    datagram = frames.udp(40000, PORT, mark)
    if ":" not in source:
        for kind in (LOOSE, STRICT):
            yield with_option(frames.packet(source, first, datagram), kind, last)
        return
    for kind in (0, 2, 3, 4):
        body = struct.pack(">BBB4x", 2, kind, 1) + ip_address(last).packed
        yield frames.packet(source, first, datagram, extensions=[frames.Extension(frames.ROUTING, body)])


@attack()
def a_route_in_the_packet(world: World, family: Family) -> None:
    """By the attacker's node, the victim's, and the other attacker."""
    for attacker, victim, friend in PAIRS:
        with world.attempt(victim) as attempt:
            own, target = world.address(attacker, family), world.address(victim, family)
            partner = world.address("attacker2" if attacker == "attacker1" else "attacker1", family)
            for hop in (*NODE_ADDRESSES[family], partner):
                for packet in routed_by(own, hop, target, attempt.forbidden):
                    world.inject(attacker, world.frame(attacker, packet, hop))
            attempt.control(victim, partial(world.datagram, friend, target, PORT))


@attack()
def a_packet_in_a_packet(world: World, family: Family) -> None:
    """From a friend, in IP and in GRE: nodes and pods do not take it out."""
    for attacker, victim, friend in PAIRS:
        with world.attempt(victim) as attempt:
            own, target = world.address(attacker, family), world.address(victim, family)
            for inner_family in world.terms.families:
                ends = world.address(friend, inner_family), world.address(victim, inner_family)
                inner = frames.packet(*ends, frames.udp(40000, PORT, attempt.forbidden))
                kind = {4: frames.IPV4, 6: frames.IPV6}[inner_family]
                for hop in (*NODE_ADDRESSES[family], target):
                    for segment in (
                        frames.Segment(IPIP[inner_family], inner),
                        frames.Segment(GRE, struct.pack(">HH", 0, kind) + inner),
                    ):
                        world.inject(attacker, world.frame(attacker, frames.packet(own, hop, segment), hop))
            attempt.control(victim, partial(world.datagram, friend, target, PORT))


def first_packets(mark: bytes) -> Iterator[frames.Segment]:
    """SYNs with data and options, and SCTP's INIT, COOKIE-ECHO, HEARTBEAT and DATA."""
    for option in (FAST_OPEN, MD5):
        head = struct.pack(">HHIIBBHHH", 40000, PORT, 1, 0, (20 + len(option)) // 4 << 4, 2, 1024, 0, 0)
        yield frames.Segment(TCP, head + option + mark, 16)
    for chunk in (1, 10, 4, 0):
        yield frames.Segment(SCTP, struct.pack(">HHIIBBH", 40000, PORT, 7, 0, chunk, 3, 4 + len(mark)) + mark)


@attack()
def a_first_packet_with_more_than_a_flag(world: World, family: Family) -> None:
    """Fast open, signatures, and SCTP in each state."""
    for attacker, victim, friend in PAIRS:
        with world.attempt(victim) as attempt:
            own, target = world.address(attacker, family), world.address(victim, family)
            for _ in range(2):
                for segment in first_packets(attempt.forbidden):
                    world.inject(attacker, world.frame(attacker, frames.packet(own, target, segment), target))
            attempt.control(victim, partial(world.datagram, friend, target, PORT))
