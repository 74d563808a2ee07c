"""What established flows are let past: only what the rules would let past as well."""

from __future__ import annotations

import time
from functools import partial

from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.cluster import sh
from tests.kernel.agent.policies import PORT
from tests.waiting import until

_EXCHANGES = 5


def establish(world: World, family: Family, port: int) -> None:
    """Datagrams between the attackers, there and back, until every rule knows the flow."""
    first, second = world.address("attacker1", family), world.address("attacker2", family)
    for node, own in (("n1", first), ("n2", second)) if world.terms.wiring == "routed" else ():
        until(lambda node=node, own=own: f'comment "{own}"' in sh(node, "nft", "list table netdev percale"), "hooked")  # type: ignore[misc]
    for _ in range(_EXCHANGES):
        for sender, own, other, ports in (
            ("attacker1", first, second, (port, PORT)),
            ("attacker2", second, first, (PORT, port)),
        ):
            packet = frames.packet(own, other, frames.udp(*ports, b"hi"))
            world.inject(sender, world.frame(sender, packet, other))
            time.sleep(0.02)


@attack()
def a_tag_on_an_established_flow(world: World, family: Family) -> None:
    """What is tagged reaches neither the other pod nor the network of the nodes, where the tag would choose another one."""
    target = world.address("attacker2", family)
    with world.attempt("attacker2", "n2") as attempt:
        establish(world, family, 41000)
        for vlan in (5, 100):
            packet = frames.packet(
                world.address("attacker1", family), target, frames.udp(41000, PORT, attempt.forbidden)
            )
            frame = world.frame("attacker1", packet, target)
            for tag in (frames.VLAN, frames.SERVICE_VLAN):
                world.inject("attacker1", frames.tagged(frame, vlan, tag), 3)
        for place in ("attacker2", "n2"):
            attempt.control(place, partial(world.datagram, "attacker1", target, PORT))
