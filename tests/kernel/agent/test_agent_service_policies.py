"""NetworkPolicies on the endpoints of a Service, by real agents: judged after DNAT and before masquerade.

n1: friend, stranger, near        n2: far        switch: the host outside, with two addresses

Where the node of the client masquerades and the endpoint is on another, that one's policy sees the client's node.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
from tests import builders
from tests.kernel.agent.cluster import NETNS, Cluster, Pod, sh
from tests.kernel.agent.services import NODE_PORT, VIP, Services, services
from tests.kernel.service_world import all_at_once
from tests.waiting import until

N1, N2 = "192.168.0.1", "192.168.0.2"
CUSTOMER, PASSER_BY = "192.168.0.254", "192.168.0.253"
FROM_FRIENDS = {"podSelector": {"matchLabels": {"app": "friend"}}}
FROM_CUSTOMER = {"ipBlock": {"cidr": "192.168.0.0/24", "except": [f"{PASSER_BY}/32", f"{N1}/32", f"{N2}/32"]}}


class World(NamedTuple):
    services: Services
    near: Pod
    far: Pod

    def asked(self, name: str, target: str, port: int, protocol: str = "TCP") -> str:
        """Who answers a pod, or the address of a host outside; else what happens."""
        outside = name in (CUSTOMER, PASSER_BY)
        source = (name, 0) if outside else None
        seen = self.services.ask("switch" if outside else name, target, port, protocol, source=source)
        return seen.who or seen.action

    def settled(self, answers: dict[tuple[str, str, int], str], *protocols: str) -> None:
        """All of them are so, at last: client, target and port → who answers."""
        questions = [(*asked, protocol) for asked in answers for protocol in protocols or ("TCP", "UDP")]
        wanted = [answers[question[:3]] for question in questions]
        until(lambda: all_at_once([partial(self.asked, *each) for each in questions]) == wanted, f"{answers}")

    def policy(self, name: str, *sources: dict[str, Any]) -> None:
        """On all endpoints: these may come in."""
        ports = [{"port": 8080}, {"port": 8080, "protocol": "UDP"}]
        ingress = [{"from": list(sources), "ports": ports}]
        made = builders.policy(name, podSelector={"matchLabels": {"app": "web"}}, ingress=ingress)
        self.services.write(f"policy-{name}", made)


@pytest.fixture
def world(cluster: Cluster) -> Iterator[World]:
    sh("switch", "ip", "address", "add", f"{PASSER_BY}/24", "dev", "br0")
    with services(cluster, 1, 2) as (made, (one, two)):
        pods = {
            name: (node.pod(name), app)
            for name, node, app in (
                ("friend", one, "friend"),
                ("stranger", one, "stranger"),
                ("near", one, "web"),
                ("far", two, "web"),
            )
        }
        for name, (pod, app) in pods.items():
            made.serving(pod)
            made.write(f"pod-{name}", builders.pod(name, pod.addresses[0], node=pod.node.name, labels={"app": app}))
        NETNS / "switch"
        yield World(made, pods["near"][0], pods["far"][0])


def test_a_policy_sees_the_client_of_a_service(world: World) -> None:
    world.policy("friends", FROM_FRIENDS)
    for policy, pod in product(("Cluster", "Local"), (world.near, world.far)):
        world.services.service(externalTrafficPolicy=policy)
        world.services.slice(pod)
        masqueraded_on_the_way = policy == "Cluster" and pod is world.far
        world.settled(
            {
                ("friend", VIP, 80): pod.name,
                ("stranger", VIP, 80): "drop",
                ("friend", N1, NODE_PORT): "drop" if masqueraded_on_the_way else pod.name,
                ("stranger", N1, NODE_PORT): "drop",
                (CUSTOMER, N1, NODE_PORT): "drop",
            }
        )


def test_a_block_of_addresses_is_of_the_host_outside(world: World) -> None:
    world.policy("customers", FROM_CUSTOMER)
    for policy in ("Cluster", "Local"):
        world.services.service(externalTrafficPolicy=policy)
        world.services.slice(world.near)
        world.settled(
            {
                (CUSTOMER, N1, NODE_PORT): "near",
                (PASSER_BY, N1, NODE_PORT): "drop",
                (CUSTOMER, N2, NODE_PORT): "drop",  # masqueraded by n2, or no endpoint there
                ("friend", VIP, 80): "drop",
            }
        )
    world.services.slice(world.near, world.far)
    here = {(CUSTOMER, N1, NODE_PORT): "near", (CUSTOMER, N2, NODE_PORT): "far", (PASSER_BY, N2, NODE_PORT): "drop"}
    world.settled(here)
    world.settled(here)


def test_policies_come_and_go_under_a_service(world: World) -> None:
    world.services.service()
    world.services.slice(world.near)
    asked = ("stranger", VIP, 80)
    world.settled({asked: "near"})
    world.policy("friends", FROM_FRIENDS)
    world.settled({asked: "drop"})
    world.policy("strangers", {"podSelector": {"matchLabels": {"app": "stranger"}}})
    world.settled({asked: "near", ("friend", VIP, 80): "near"})
    world.services.remove("policy-strangers")
    world.settled({asked: "drop"})
    world.services.remove("policy-friends")
    world.settled({asked: "near", ("stranger", N1, NODE_PORT): "near"})
