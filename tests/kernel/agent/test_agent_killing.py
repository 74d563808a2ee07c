"""An agent that dies in the middle of anything: no stranger gets in meanwhile, and its next life is as if it were the first."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest
from tests import builders
from tests.kernel.agent.cluster import Cluster, Node, Pod
from tests.kernel.agent.guarded import Guarded
from tests.kernel.agent.policies import DENY, allowing
from tests.kernel.agent.test_agent_store import lease

SEEDS = [int(each) for each in os.environ.get("SEEDS", "1 2").split()]
"""Others to find more."""
ROUNDS = 12
LONGEST = 0.25
"""Seconds from the change to the agent's death."""


class Changes:
    """Each is begun and not waited for; the stranger is allowed in by none of them."""

    def __init__(self, world: Guarded, chance: random.Random) -> None:
        self._world, self._chance = world, chance
        self._numbers = count()
        self.guest: Pod | None = None
        self._running: list[subprocess.Popen[str]] = []
        self._there: set[str] = set()

    def toggle(self, name: str, put: Callable[[], object], remove: Callable[[], object]) -> None:
        if name in self._there:
            self._there.remove(name)
            remove()
        else:
            self._there.add(name)
            put()

    def another_policy(self) -> None:
        policies, name = self._world.policies, f"p{self._chance.randrange(6)}"
        spec = allowing(self._chance.choice(("server", "stranger", "guest")), "friend", f"client{next(self._numbers)}")
        self.toggle(name, lambda: policies.policy(name, spec), lambda: policies.remove("NetworkPolicy", name))

    def the_first_of_two_policies(self) -> None:
        policies = self._world.policies
        self.toggle("deny", lambda: policies.remove("NetworkPolicy", "deny"), lambda: policies.policy("deny", DENY))

    def another_label(self) -> None:
        node = self._world.node
        self._world.policies.put(
            "Pod",
            "elsewhere",
            metadata={"labels": {"app": self._chance.choice(("friend", "other"))}},
            spec={"nodeName": "n9", "containers": [{"name": "main", "image": "none"}]},
            status={"phase": "Running", "podIPs": [{"ip": node.subnet.replace("1.0/24", "9.9")}]},
        )

    def a_large_service(self) -> None:
        services = self._world.services
        ports = [{"name": f"p{each}", "port": 1000 + each, "protocol": "UDP"} for each in range(300)]
        endpoints = [f"10.244.{8 + each // 250}.{2 + each % 250}" for each in range(self._chance.randrange(100, 300))]
        document = builders.endpoint_slice("large", *endpoints, ports=ports)

        def put() -> None:
            services.write("slice-large", document)
            services.service("large", type="ClusterIP", clusterIP="10.96.0.77", ports=ports)

        self.toggle("large", put, lambda: services.remove("service-large"))

    def another_endpoint(self) -> None:
        self._world.point_the_slice(*self._chance.sample(["10.244.9.1", "10.244.9.2", "10.244.9.3"], 2))

    def peers(self) -> None:
        some = [lease(50 + each) for each in range(100) if self._chance.random() < 0.5]
        self._world.cluster.write("peers", *some)

    def the_underlay(self) -> None:
        node, there = self._world.node, "192.168.0.1/24"

        def move(old: str, new: str) -> None:
            node.ip("address", "del", old, "dev", "eth0")
            node.ip("address", "add", new, "dev", "eth0")
            node.ip("route", "replace", "default", "via", "192.168.0.254")

        other = "192.168.0.33/24"
        self.toggle("moved", lambda: move(there, other), lambda: move(other, there))

    def a_pod_comes_or_goes(self) -> None:
        world = self._world
        if self.guest is None:
            world.policies.declare(world.node, "guest")
            world.cluster.namespace("guest") if "guest" not in world.cluster.namespaces else None
            self.guest = Pod(world.node, "guest")
            self._running.append(self.guest.launch("ADD"))
        else:
            self._running.append(self.guest.launch("DEL"))
            self.guest = None

    def others_at_our_tables(self) -> None:
        self._world.node.sh("nft", f"delete table {self._chance.choice(OTHER_TABLES)}", check=False)

    def another_device_less(self) -> None:
        self._world.node.ip("link", "delete", "flannel.1")

    def every(self) -> list[Callable[[], None]]:
        return [
            self.another_policy,
            self.the_first_of_two_policies,
            self.another_label,
            self.a_large_service,
            self.another_endpoint,
            self.peers,
            self.the_underlay,
            self.a_pod_comes_or_goes,
            self.others_at_our_tables,
            self.another_device_less,
        ]

    def settle(self) -> None:
        """The runtime asks again for what it got no answer to."""
        for each in self._running:
            each.communicate(timeout=60)
        if self._running:
            self._running.clear()
            if self.guest is not None:
                self.guest.addresses = tuple(each["address"].partition("/")[0] for each in self.guest.cni("ADD")["ips"])
            else:
                Pod(self._world.node, "guest").cni("DEL")


OTHER_TABLES = ("inet percale-services", "ip6 percale", "netdev percale")
"""Whose loss lets nobody in."""


def state(world: Guarded) -> dict[str, list[str]]:
    """All that the kernel holds of ours but what packets put there."""
    node = world.node
    shortcut = [line for line in world.table("netdev", "percale").splitlines() if "expires" not in line]
    return {
        "tables": world.tables(),
        "shortcut": sorted(" ".join(shortcut).replace(",", " ").split()),
        "devices": sorted(line.split()[0] for line in node.ip("-br", "link").splitlines()),
        "addresses": sorted(node.ip("-br", "address").splitlines()),
        "routes": sorted(node.ip("route").splitlines()),
        "neighbours": sorted(node.ip("neighbour", "show", "nud", "permanent").splitlines()),
        "forwarding": sorted(
            each for each in node.sh("bridge", "fdb", "show", "dev", "flannel.1").splitlines() if " dst " in each
        ),
    }


def settled(world: Guarded) -> dict[str, list[str]]:
    """Twice the same."""
    while True:
        before = state(world)
        time.sleep(0.3)
        if state(world) == before:
            return before


def without_anything(node: Node) -> None:
    """What a machine has after it booted, but for the pods."""
    node.sh("nft", "flush ruleset")
    node.ip("link", "delete", "flannel.1")


@pytest.fixture
def down() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("seed", SEEDS)
def test_an_agent_that_dies_at_any_moment_leaves_nothing_open_and_nothing_behind(
    cluster: Cluster, down: ExitStack, seed: int
) -> None:
    world, chance = Guarded(cluster, down), random.Random(seed)
    world.node.settings["probePeers"] = False  # its peers are leases alone
    changes = Changes(world, chance)
    told: list[str] = []
    with world.knocking.going():
        world.knocking.until_quiet()
        for _ in range(ROUNDS):
            some = [chance.choice(changes.every()) for _ in range(chance.randint(1, 3))]
            for change in some:
                change()
            wait = chance.uniform(0, LONGEST)
            told.append(f"{', '.join(each.__name__ for each in some)}; dies after {wait:.3f} s")
            time.sleep(wait)
            assert world.node.process is not None
            assert world.node.process.poll() is None, world.node.log
            world.node.stop(signal.SIGKILL)
            world.node.settings["services"]["enabled"] = chance.random() < 0.9
            world.node.start()
            changes.settle()
            assert not world.knocking.arrived, told[-2:]
        world.node.stop(signal.SIGKILL)
        world.node.settings["services"]["enabled"] = True
        world.node.start()
        found = settled(world)
        world.knocking.until_quiet()
        assert not world.knocking.arrived
    world.node.stop()
    without_anything(world.node)
    world.node.start()
    fresh = settled(world)
    for what, before in found.items():
        assert before == fresh[what], (what, set(before) ^ set(fresh[what]), told)
    assert not world.node.status.problems
