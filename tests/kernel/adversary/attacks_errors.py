"""ICMP errors about what others send: they would end a connection, shrink a path's MTU or lead packets elsewhere.

Connection tracking lets an error pass that quotes a packet of a flow, whoever sends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address
from itertools import product

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_tunnels import ATTACKERS, VICTIMS, send
from tests.kernel.adversary.worlds import NODE_ADDRESSES, SWITCH, Family, World, attack
from tests.kernel.agent.cluster import sh
from tests.kernel.agent.policies import PORT
from tests.waiting import until

FRIENDS = ("friend1", "friend2")
UNREACHABLE, REDIRECT = 3, 5
SMALL = 400
"""An MTU."""
TOO_BIG = {4: (3, 4), 6: (2, 0)}
LEAST = {4: 552, 6: 1280}
"""MTUs that are believed."""


def errors(quoted: bytes, gateway: str) -> Iterator[frames.Segment]:
    """Unreachable hosts and ports, too large, on the way for too long, odd, better sent by the gateway."""
    if quoted[0] >> 4 == 4:
        kinds = [
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, SMALL),
            (4, 0, 0),
            (5, 1, int(IPv4Address(gateway))),
            (11, 0, 0),
            (12, 0, 0),
        ]
    else:
        kinds = [(1, 3, 0), (1, 4, 0), (2, 0, SMALL), (3, 0, 0), (4, 1, 0)]
    for kind, code, word in kinds:
        yield frames.icmp_error(kind, code, quoted, word)


@attack()
def an_error_about_anothers_flow(world: World, family: Family) -> None:
    """Both ends of each permitted flow get errors about it, from third pods; from the pod that a packet was for they pass."""
    with world.attempt(*VICTIMS, *FRIENDS) as attempt:
        for friend, victim in product(FRIENDS, VICTIMS):
            client, server = ends = world.address(friend, family), world.address(victim, family)
            world.datagram(friend, server, PORT, b"a flow")
            there = frames.packet(client, server, frames.udp(40000, PORT, attempt.forbidden))
            back = frames.packet(server, client, frames.udp(PORT, 40000, attempt.forbidden))
            for attacker, (sender, quoted) in product(ATTACKERS, zip(ends, (there, back), strict=True)):
                for segment in errors(quoted, world.address(attacker, family)):
                    send(world, attacker, sender, segment)
                    # A quotation that is too short for anybody to see whose it is.
                    send(world, attacker, sender, frames.Segment(segment.protocol, segment.body[:20], 2))
        for place in (*VICTIMS, *FRIENDS):
            attempt.control(place, refused_by_its_target(world, place, f"attacker{place[-1]}", family))


def refused_by_its_target(world: World, place: str, target: str, family: Family) -> Callable[[bytes], None]:
    """The target's error about a datagram that it was sent."""
    own, there = world.address(place, family), world.address(target, family)

    def send_both(mark: bytes) -> None:
        world.datagram(place, there, PORT, b"a flow")
        until(
            lambda: f"dport={PORT}" in world.pods[place].node.sh("conntrack", "-L", "-s", own, "-d", there), "tracked"
        )
        quoted = frames.packet(own, there, frames.udp(40000, PORT, mark))
        send(world, target, own, next(errors(quoted, there)))

    return send_both


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
        for quoted in (
            frames.vxlan(1, frame, port=world.terms.tunnel_port),
            frames.udp(40000, PORT),
            frames.echo(family),
        ):
            said = frames.icmp_error(*TOO_BIG[family], frames.packet(source, target, quoted), LEAST[family])
            packet = frames.packet(world.address(attacker, family), source, said)
            world.inject(attacker, world.frame(attacker, packet, source))
    for node, address in (("n1", there), ("n2", here)):
        assert "mtu" not in sh(node, "ip", f"-{family}", "route", "get", address), f"{node} believes it"


@attack(families=(4,))
def a_redirect_from_next_door(world: World, family: Family) -> None:
    """In the name of a pod's router, about a flow that the pod has: neighbours of the node may send errors, and no redirects."""
    target, router = world.address("attacker2", family), "169.254.1.1"
    for victim in ("victim1", "friend1"):
        own = world.address(victim, family)

        def send_error(mark: bytes, kind: int, *, victim: str = victim, own: str = own) -> None:
            world.datagram(victim, target, PORT, b"a flow")
            quoted = frames.packet(own, target, frames.udp(40000, PORT, mark))
            error = frames.packet(router, own, frames.icmp_error(kind, 1, quoted, int(IPv4Address(SWITCH[family]))))
            world.inject("n2", frames.ethernet(world.mac("n2"), world.mac("n1"), error))

        with world.attempt(victim) as attempt:
            for _ in range(5):
                send_error(attempt.forbidden, REDIRECT)
                time.sleep(0.02)
            attempt.control(victim, partial(send_error, kind=UNREACHABLE))
