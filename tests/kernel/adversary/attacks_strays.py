"""Packets to addresses that nobody has."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_network

from tests.kernel.adversary.worlds import SWITCH, Family, World, attack
from tests.kernel.agent.policies import PORT


@attack()
def to_a_pods_address_that_is_free(world: World, family: Family) -> None:
    """It does not leave the node by the way to the outside, where others might answer, or send it back."""
    subnet = ip_network(world.nodes["n1"].status.subnets[family == 6])
    with world.attempt("switch") as attempt:
        world.datagram("attacker1", str(subnet[200]), PORT, attempt.forbidden)
        attempt.control("switch", partial(world.datagram, "attacker1", SWITCH[family], PORT))
