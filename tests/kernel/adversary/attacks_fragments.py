"""Pieces of packets: what is put together again comes from one sender, and is judged as a whole."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_frames import PAIRS
from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.cluster import sh
from tests.kernel.agent.policies import PORT
from tests.waiting import until

_FIRST = 512
"""Bytes in the first of two fragments, a multiple of 8."""


def pieces(
    source: str, target: str, segment: frames.Segment, identity: int, first: int = _FIRST
) -> tuple[bytes, bytes]:
    """The same IP packet in two fragments."""
    whole = frames.packet(source, target, segment)
    if ":" in source:
        head, body = whole[:40], whole[40:]
        cut = ((body[:first], 0, True), (body[first:], first, False))
        return tuple(  # type: ignore[return-value]
            struct.pack(">IHBB", 6 << 28, 8 + len(part), frames.FRAGMENT, 64)
            + head[8:]
            + bytes((segment.protocol,))
            + frames.fragment(at, more=more, identity=identity).body
            + part
            for part, at, more in cut
        )
    body = whole[20:]
    made = []
    for part, at, more in ((body[:first], 0, 0x2000), (body[first:], first, 0)):
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(part), identity, more | at // 8, 64, segment.protocol, 0)
        head += IPv4Address(source).packed + IPv4Address(target).packed
        made.append(head[:10] + frames.checksum(head).to_bytes(2, "big") + head[12:] + part)
    return made[0], made[1]


def half(world: World, sender: str, source: str, target: str, which: int, mark: bytes, identity: int) -> None:
    """One of two fragments of a datagram with the mark in its second half, from this sender."""
    text = bytes(_FIRST) + mark.ljust(64)
    packet = pieces(source, target, frames.udp(40000, PORT, text), identity)[which]
    world.inject(sender, world.frame(sender, packet, target))


@attack()
def a_piece_of_anothers_packet(world: World, family: Family) -> None:
    """The second fragment of what a friend sends, near or far: from the attacker beside the victim, before the friend's."""
    for attacker, victim, _ in PAIRS:
        target = world.address(victim, family)
        for friend in ("friend1", "friend2"):
            source = world.address(friend, family)

            def send(mark: bytes, friend: str = friend, source: str = source, target: str = target) -> None:
                half(world, friend, source, target, 0, mark, 7)
                half(world, friend, source, target, 1, mark, 7)

            with world.attempt(victim) as attempt:
                for identity in range(1000, 1010):
                    half(world, attacker, source, target, 1, attempt.forbidden, identity)
                    half(world, friend, source, target, 0, attempt.permitted, identity)
                attempt.control(victim, send)


@attack()
def what_fragments_may_carry(world: World, family: Family) -> None:
    """No attack: whatever a later fragment begins with, as ICMP errors do perhaps, a long ping gets there and back."""
    for target in ("victim1", "victim2"):
        address = world.address(target, family)
        for pattern in ("03", "05", "ff"):
            ping = ("ping", "-n", "-q", "-c3", "-i0.05", "-s4000", "-p", pattern, address)
            # On a busy machine the last answer may be late: ping waits for it twice as long as another one took.
            until(lambda ping=ping: " 0% packet loss" in sh("friend1", *ping, check=False), f"{target}, {pattern}")  # type: ignore[misc]
