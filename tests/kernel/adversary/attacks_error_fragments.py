"""ICMP errors in fragments, of which only the first shows what it is: about packets that the sender never got, too."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_fragments import pieces
from tests.kernel.adversary.attacks_frames import PAIRS
from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.policies import PORT

UNREACHABLE = {4: (3, 3), 6: (1, 4)}
"""A port."""
TOO_BIG = {4: (3, 4), 6: (2, 0)}
EXPIRED = {4: (11, 0), 6: (3, 0)}
REDIRECT = {4: (5, 1), 6: (4, 0)}
"""For IPv6 another error, a redirect is neighbour discovery's."""
LEAST = {4: 552, 6: 1280}


def error(family: Family, kind: tuple[int, int], quoted: bytes, word: int = 0) -> frames.Segment:
    """An ICMP error about this packet."""
    head = struct.pack(">BBHI", *kind, 0, word)
    return frames.Segment(frames.ICMP if family == 4 else frames.ICMP6, head + quoted, 2)


def in_pieces(source: str, target: str, segment: frames.Segment) -> Iterator[bytes]:
    """Whose first one shows neither the quotation nor (IPv6, behind options) that it is ICMP."""
    yield from pieces(source, target, segment, 77, first=8)
    if ":" in source:
        body = segment.between(ip_address(source), ip_address(target))
        hidden = frames.Segment(frames.DESTINATION_OPTIONS, bytes((segment.protocol,)) + frames.options().body + body)
        yield from pieces(source, target, hidden, 78, first=8)


@attack()
def an_error_in_pieces(world: World, family: Family) -> None:
    """About what a friend has sent to a victim: errors from the victim and from routers reach it, others' do not."""
    for attacker, victim, friend in PAIRS:
        own, peer = world.address(friend, family), world.address(victim, family)

        def about(mark: bytes, sender: str, kind: tuple[int, int], own: str = own, peer: str = peer) -> None:
            quoted = frames.packet(own, peer, frames.udp(40000, PORT, mark))
            packet = frames.packet(world.address(sender, family), own, error(family, kind, quoted, LEAST[family]))
            world.inject(sender, world.frame(sender, packet, own))

        world.datagram(friend, peer, PORT, b"?")
        with world.attempt(friend) as attempt:
            for kind in (UNREACHABLE[family], TOO_BIG[family], EXPIRED[family], REDIRECT[family]):
                about(attempt.forbidden, attacker, kind)
            quoted = frames.packet(own, peer, frames.udp(40000, PORT, attempt.forbidden))
            said = error(family, UNREACHABLE[family], quoted)
            for packet in in_pieces(world.address(attacker, family), own, said):
                world.inject(attacker, world.frame(attacker, packet, own))
            attempt.control(friend, partial(about, sender=victim, kind=UNREACHABLE[family]))
