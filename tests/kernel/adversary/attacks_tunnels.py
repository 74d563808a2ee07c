"""What gets into a tunnel between nodes comes out behind all guards and policies: a pod's packet never does."""

from __future__ import annotations

from tests.kernel.adversary.worlds import Attempt, Family, World, attack
from tests.kernel.agent.policies import PORT

VICTIMS = ("victim1", "victim2")


def control_by_friends(world: World, attempt: Attempt, family: Family) -> None:
    """What a friend on the other node may send."""
    for number in (1, 2):
        victim, friend = f"victim{number}", f"friend{3 - number}"
        attempt.control(
            victim,
            lambda mark, friend=friend, victim=victim: world.datagram(  # type: ignore[misc]
                friend, world.address(victim, family), PORT, mark
            ),
        )


@attack()
def a_plain_datagram_is_judged(world: World, family: Family) -> None:
    """The simplest one: send to a victim without being its friend. Policies drop it on either node."""
    with world.attempt(*VICTIMS) as attempt:
        for attacker in ("attacker1", "attacker2"):
            for victim in VICTIMS:
                world.datagram(attacker, world.address(victim, family), PORT, attempt.forbidden)
        control_by_friends(world, attempt, family)
