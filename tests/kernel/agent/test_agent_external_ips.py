"""A Service does not get another's address by asking for it (CVE-2020-8554): real packets, both wirings, both families."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from tests import builders
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.services import BOTH_PORTS, SERVICES, Services
from tests.waiting import until

CIDRS = ["10.96.0.0/16", "fd00:96::/112"]
CLUSTER, EXTERNAL = {4: "10.96.0.10", 6: "fd00:96::10"}, {4: "198.51.100.7", 6: "2001:db8:7::7"}
VICTIM, OUTSIDE = {4: "10.96.0.20", 6: "fd00:96::20"}, {4: "192.168.0.254", 6: "fd00::254"}
WIRINGS = pytest.mark.parametrize("wiring", ["routed", "bridge"])


@contextmanager
def two_nodes(cluster: Cluster, wiring: str, **services: Any) -> Iterator[tuple[Services, list[Node]]]:
    cluster.network = DUAL
    world = Services(cluster)
    nodes = []
    try:
        for number in (1, 2):
            world.node(number)
            settings: dict[str, Any] = {"services": {**SERVICES["services"], "cidrs": CIDRS, **services}}
            node = cluster.node(number, ipv6=True, **settings)
            node.settings["cni"]["wiring"] = wiring
            nodes.append(node)
        for node in nodes:
            node.start()
        for node in nodes:
            until(lambda node=node: all(peer.reached for peer in node.status.peers) and node.status.peers)  # type: ignore[misc]
        yield world, nodes
    finally:
        world.close()


def steal(world: Services, thief: Pod, *addresses: str, lb: tuple[str, ...] = ()) -> None:
    """A Service in a tenant's namespace, and its endpoint."""
    ports = [{"name": each, "port": 8080, "targetPort": 8080, "protocol": each.upper()} for each in ("tcp", "udp")]
    both = list(CLUSTER.values())
    service = builders.service(
        "thief",
        namespace="tenant",
        ingress=lb,
        clusterIP=both[0],
        clusterIPs=both,
        externalIPs=addresses,
        ports=ports,
        type="LoadBalancer",
    )
    slices = [
        builders.endpoint_slice("thief", each, name=f"thief-{index}", namespace="tenant", ports=BOTH_PORTS)
        for index, each in enumerate(thief.addresses)
    ]
    world.write("thief", service, *slices)


def reached(world: Services, address: str) -> bool:
    return world.ask("client", address, 8080).who == "thief"


@WIRINGS
def test_addresses_of_pods_nodes_and_services_are_not_taken(cluster: Cluster, wiring: str) -> None:
    with two_nodes(cluster, wiring) as (world, (one, two)):
        here, there = world.serving(one.pod("here")), world.serving(two.pod("there"))
        one.pod("client")
        thief = world.serving(one.pod("thief"))
        for name in ("n1", "n2", "switch"):
            world.answering.listen(NETNS / name, name)
        wanted = {address: pod.name for pod in (here, there) for address in pod.addresses}
        wanted |= {f"192.168.0.{number}": f"n{number}" for number in (1, 2)}
        wanted |= {"fd00::1": "n1", "fd00::2": "n2"}
        steal(
            world, thief, *wanted, "127.0.0.1", *VICTIM.values(), *EXTERNAL.values(), lb=(*here.addresses, "127.0.0.1")
        )
        for address in EXTERNAL.values():
            until(partial(reached, world, address), "its own address")
        for protocol in ("TCP", "UDP"):
            for source in ("client", "n1"):
                for address, owner in wanted.items():
                    who = world.ask(source, address, 8080, protocol).who
                    assert who != "thief"
                    # A node answers datagrams from whichever of its addresses it likes best.
                    assert who == owner or (protocol == "UDP" and owner.startswith("n"))
                for address in VICTIM.values():
                    assert world.ask(source, address, 8080, protocol).action == "drop"
            assert world.ask("n1", "127.0.0.1", 8080, protocol).who == "n1"
        (problem,) = (each.error for each in one.status.problems if each.source == "service tenant/thief")
        assert re.search(r"; and \d+ more in percale service show", problem)
        assert f"status.loadBalancer.ingress: {here.addresses[0]} is in the pod network" in problem


def test_a_node_that_joins_has_its_address_back(cluster: Cluster) -> None:
    with two_nodes(cluster, "routed") as (world, (one, _)):
        thief = world.serving(one.pod("thief"))
        one.pod("client")
        world.answering.listen(NETNS / "switch", "switch")
        steal(world, thief, "192.168.0.9")
        until(lambda: world.ask("client", "192.168.0.9", 8080).who == "thief", "nobody has it")
        sh("switch", "ip", "address", "add", "192.168.0.9/24", "dev", "br0")
        world.node(9)
        until(lambda: world.ask("client", "192.168.0.9", 8080).who == "switch", "it is a node's now")
        world.remove("node-n9")
        until(lambda: world.ask("client", "192.168.0.9", 8080).who == "thief")


@pytest.mark.parametrize(
    ("said", "taken"),
    [("any", {"192.168.0.2", "198.51.100.7"}), ("none", set()), (["198.51.100.0/24"], {"198.51.100.7"})],
)
def test_what_the_configuration_allows(cluster: Cluster, said: object, taken: set[str]) -> None:
    with two_nodes(cluster, "routed", externalIPs=said) as (world, (one, _)):
        thief = world.serving(one.pod("thief"))
        one.pod("client")
        steal(world, thief, "192.168.0.2", "198.51.100.7", "127.0.0.1")
        until(lambda: world.ask("client", CLUSTER[4], 8080).who == "thief", "the service is there")
        for address in ("192.168.0.2", "198.51.100.7"):
            assert (world.ask("client", address, 8080).who == "thief") == (address in taken)
        assert world.ask("n1", "127.0.0.1", 8080).action == "reject"
