"""A Service whose endpoints are another's pods: whoever asks it, and at whichever node, policies see him and not the node."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.kernel.adversary.worlds import NODE_ADDRESSES, Family, World, attack
from tests.kernel.agent.policies import PORT
from tests.waiting import until

VIPS: dict[Family, str] = {4: "10.96.7.1", 6: "fd00:96::7:1"}
OUTSIDE: dict[Family, str] = {4: "198.51.100.17", 6: "2001:db8:9::17"}
NODE_PORT = 30700


def launder(world: World, family: Family, victim: str, node: str, **more: Any) -> None:
    """A Service of node port, external IP and cluster IP, whose endpoint is the victim, at this node."""
    written = f"laundry{family}"
    service_port = {"port": PORT, "protocol": "UDP", "nodePort": NODE_PORT}
    endpoint = f"{world.address(victim, family)}@{node}"
    world.write_service(written, VIPS[family], endpoint, service_port, externalIPs=[OUTSIDE[family]], **more)
    try:
        known = ("nft", f"list map inet percale-services endpoints{family}")
        until(lambda: all(VIPS[family] in each.sh(*known) for each in world.nodes.values()), "nodes know")
        with world.attempt(victim) as attempt:
            ways = [
                (VIPS[family], PORT),
                (OUTSIDE[family], PORT),
                *((each, NODE_PORT) for each in NODE_ADDRESSES[family]),
            ]
            for attacker in ("attacker1", "attacker2"):
                for target, port in ways:
                    world.datagram(attacker, target, port, attempt.forbidden)
            attempt.control(victim, partial(world.datagram, "friend1", VIPS[family], PORT))
            attempt.control(victim, partial(world.datagram, "friend2", VIPS[family], PORT))
    finally:
        world.services.remove(written)
        until(lambda: not any(VIPS[family] in each.sh(*known) for each in world.nodes.values()), "nodes forget it")


@attack()
def a_service_of_anothers_pods(world: World, family: Family) -> None:
    """By its cluster IP, its external IP and its node port at each node, to a victim near and far."""
    for victim, node in (("victim1", "n1"), ("victim2", "n2")):
        launder(world, family, victim, node)


@attack()
def a_service_that_lies_about_nodes(world: World, family: Family) -> None:
    """With endpoints that are said to be on the other node, clients that stay, and Local policies."""
    local = {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}
    for victim, node in (("victim1", "n2"), ("victim2", "n1"), ("victim2", "n2")):
        launder(world, family, victim, node, **local)
