"""Objects that cost more than their authors may take from others: everybody else's policies stay in time."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.policies import PORT, allowing, selecting
from tests.waiting import until

_LIMIT = 5.0
"""Seconds; the agents' own are a fraction of one."""


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


@attack(only=("vxlan",))
def a_policy_that_takes_all_of_an_agents_time(world: World, family: Family) -> None:
    """Each of the kind that once took minutes; another policy, written right after it, comes into force and goes again."""
    target = world.address("victim1", family)
    with world.attempt("victim1") as attempt:
        try:
            for name, rule in BOMBS.items():
                world.policies.policy(f"bomb-{name}", {**selecting("attacker1"), "ingress": [{}, rule]})
            began = time.monotonic()
            world.policies.policy("visit", allowing("victim1", "attacker2"))
            until(lambda: world.pods["attacker2"].reaches(target), "a policy is in force")
            world.policies.remove("NetworkPolicy", "visit")
            until(lambda: not world.pods["attacker2"].reaches(target), "it is no longer")
            assert time.monotonic() - began < _LIMIT
            world.datagram("attacker2", target, PORT, attempt.forbidden)
        finally:
            for name in BOMBS:
                world.policies.remove("NetworkPolicy", f"bomb-{name}")
        attempt.control("victim1", partial(world.datagram, "friend1", target, PORT))
