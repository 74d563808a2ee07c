"""ICMP errors about packets that the sender never got: they would pass as related, and change paths of others."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_fragments import pieces
from tests.kernel.adversary.attacks_frames import PAIRS
from tests.kernel.adversary.worlds import NODE_ADDRESSES, TUNNEL_PORT, Family, World, attack
from tests.kernel.agent.cluster import sh
from tests.kernel.agent.policies import PORT

UNREACHABLE = {4: (3, 3), 6: (1, 4)}
"""A port."""
TOO_BIG = {4: (3, 4), 6: (2, 0)}
EXPIRED = {4: (11, 0), 6: (3, 0)}
REDIRECT = {4: (5, 1), 6: (4, 0)}
"""For IPv6 another error, a redirect is neighbour discovery's."""
_LEAST = {4: 552, 6: 1280}


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
def an_error_about_a_strangers_flow(world: World, family: Family) -> None:
    """About what a friend has sent to a victim: he hears of errors from the victim and from routers, not from other pods."""
    for attacker, victim, friend in PAIRS:
        own, peer = world.address(friend, family), world.address(victim, family)

        def about(mark: bytes, sender: str, kind: tuple[int, int], own: str = own, peer: str = peer) -> None:
            quoted = frames.packet(own, peer, frames.udp(40000, PORT, mark))
            packet = frames.packet(world.address(sender, family), own, error(family, kind, quoted, _LEAST[family]))
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


@attack()
def a_path_that_is_said_to_be_narrow(world: World, family: Family) -> None:
    """To the node, about its own packets to the other node: it sends as large ones as before."""
    here, there = NODE_ADDRESSES[family]
    for source, target, attacker in (
        (here, there, "attacker1"),
        (there, here, "attacker1"),
        (here, there, "attacker2"),
    ):
        inner = frames.packet("10.244.1.2", "10.244.2.2", frames.udp(1, 2))
        frame = frames.ethernet("02:00:00:00:00:00", "02:00:00:00:00:01", inner)
        for quoted in (frames.vxlan(1, frame, port=TUNNEL_PORT), frames.udp(40000, PORT), frames.echo(family)):
            said = error(family, TOO_BIG[family], frames.packet(source, target, quoted), _LEAST[family])
            packet = frames.packet(world.address(attacker, family), source, said)
            world.inject(attacker, world.frame(attacker, packet, source))
    for node, address in (("n1", there), ("n2", here)):
        assert "mtu" not in sh(node, "ip", f"-{family}", "route", "get", address), f"{node} believes it"
