"""Objects that cost more than their authors may take from others: everybody else's policies stay in time."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.policies import PORT, allowing, selecting
from tests.waiting import until

_LIMIT = 5.0
"""Seconds of the agent's CPU, for a busy machine has fewer of them; without these policies they are a fraction of one."""
_LIMIT_OF_MANY = 20.0
"""The same where a namespace's whole limit is used, which the kernel takes in a transaction of 3,600 sets; they were minutes."""


def one_of(number: int) -> dict[str, Any]:
    return selecting(f"v{number}")


BOMBS: dict[str, dict[str, Any]] = {
    "peers-and-names": {
        "from": [one_of(number) for number in range(400)],
        "ports": [{"port": f"n{number}"} for number in range(400)],
    },
    "peers": {"from": [one_of(number) for number in range(5000)]},
    "exceptions": {
        "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{n // 256}.{n % 256}.0/24" for n in range(0, 20_000, 2)]}}]
    },
}  # fmt: skip
CROWD = {f"{number}": {"from": [one_of(1000 * number + each) for each in range(900)]} for number in range(80)}
"""Each is just below the limit of one policy."""


@attack(only=("vxlan",))
def a_policy_that_takes_all_of_an_agents_time(world: World, family: Family) -> None:
    """Each of the kind that once took minutes."""
    others_are_in_time(world, family, BOMBS, _LIMIT)


@attack(only=("vxlan",), families=(4,))
def many_policies_that_take_all_of_an_agents_time(world: World, family: Family) -> None:
    """They select one pod: its rules grow with each."""
    others_are_in_time(world, family, CROWD, _LIMIT_OF_MANY)


def others_are_in_time(world: World, family: Family, bombs: dict[str, dict[str, Any]], limit: float) -> None:
    """Another policy, written right after these, comes into force and goes again."""
    target, node = world.address("victim1", family), world.nodes["n1"]
    with world.attempt("victim1") as attempt:
        try:
            for name, rule in bombs.items():
                world.policies.policy(f"bomb-{name}", {**selecting("attacker1"), "ingress": [{}, rule]})
            before = node.cpu_seconds
            world.policies.policy("visit", allowing("victim1", "attacker2"))
            until(lambda: world.pods["attacker2"].reaches(target), "a policy is in force")
            world.policies.remove("NetworkPolicy", "visit")
            until(lambda: not world.pods["attacker2"].reaches(target), "it is no longer")
            assert node.cpu_seconds - before < limit
            world.datagram("attacker2", target, PORT, attempt.forbidden)
        finally:
            for name in bombs:
                world.policies.remove("NetworkPolicy", f"bomb-{name}")
        attempt.control("victim1", partial(world.datagram, "friend1", target, PORT))
