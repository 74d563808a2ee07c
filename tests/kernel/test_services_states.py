"""From any named state of a Service to any other: what edits leave in a real table is what a fresh start would put there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import combinations
from typing import Any

import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.service_world import CLUSTER, EXTERNAL, PORT, ServiceNode, ServiceWorld, ask, service_world

from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object
from percale.model.service import ClientIPConfig, Service, ServicePort, SessionAffinityConfig
from percale.render.nft.objects import Transaction
from percale.render.service.renderer import ServiceRenderer
from percale.service.resolver import ServiceResolver
from percale.service.strategies import STRATEGY_ANNOTATION

LOCAL = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}
ALL = ("n1/7", "n1/8", "n2/7", "n2/8")


@pytest_asyncio.fixture
async def world(new_space: Callable[[], Space]) -> AsyncIterator[ServiceWorld]:
    async with service_world(new_space) as made:
        yield made


def states(world: ServiceWorld) -> dict[str, list[Object]]:
    """Each with its objects; those of the nodes are always there."""

    def service(**spec: Any) -> Service:
        return world.service(4, **spec)

    def by(strategy: str) -> Service:
        return world.service(4, annotations={STRATEGY_ANNOTATION: strategy})

    endpoints = world.slice(4, *ALL)
    udp = (ServicePort(name="udp", port=PORT, protocol="UDP"),)
    staying = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=60))
    contender = world.service(4, "rival", type="ClusterIP", clusterIP="172.30.0.50", ports=udp)
    return {
        "nothing": [],
        "endpoints alone": [endpoints],
        "nobody": [service()],
        "one": [service(), world.slice(4, "n1/7")],
        "four": [service(), endpoints],
        "all drain": [service(), world.slice(4, draining=ALL)],
        "local": [service(**LOCAL), endpoints],
        "elsewhere": [service(**LOCAL), world.slice(4, "n2/7")],
        "for some": [service(loadBalancerSourceRanges=("192.168.1.0/24",)), endpoints],
        "in turn": [by("rr"), endpoints],
        "consistent": [by("mh"), world.slice(4, *ALL[:2])],
        "clients stay": [service(sessionAffinity="ClientIP", sessionAffinityConfig=staying), endpoints],
        "one protocol": [service(ports=udp, type="ClusterIP"), endpoints],
        "two want one address": [service(type="ClusterIP"), contender, world.slice(4, "n1/7", service="rival")],
        "the other has it": [contender, world.slice(4, "n1/7", service="rival")],
    }


async def go(node: ServiceNode, before: list[Object], after: list[Object]) -> None:
    there = {(type(each), each.key) for each in after}
    await node.apply(after, [(type(each), each.key) for each in before if (type(each), each.key) not in there])


def fresh(node: ServiceNode, objects: list[Object]) -> Transaction:
    """What an agent would put there that has just started."""
    table = ServiceResolver(node.table.config, objects)
    elements = ServiceRenderer(table)
    elements.local_pods = node.elements.local_pods
    elements.update(table.services)
    return elements.snapshot()


async def test_from_any_state_to_any_other_and_back(world: ServiceWorld) -> None:
    node, named = world.nodes[0], states(world)
    nodes = world.node_objects()
    now = "nothing"
    for one, other in combinations(named, 2):
        for name in (one, other, one):
            if name == now:
                continue
            await go(node, named[now], named[name])
            assert not await node.nft_table.sync(fresh(node, [*nodes, *named[name]])), f"from {now} to {name}"
            now = name


async def test_two_services_that_want_one_external_address(world: ServiceWorld) -> None:
    """Of one age, the first by name has it, whatever the other's endpoints; then it is the other's."""
    first = world.service(4, "a", type="ClusterIP", clusterIP="172.30.0.51")
    second = world.service(4, "b", type="ClusterIP", clusterIP="172.30.0.52")
    mine, theirs = world.slice(4, "n1/7", service="a"), world.slice(4, "n2/7", service="b")
    await world.apply(second, theirs)
    assert ask(world.outside, EXTERNAL[4], PORT).who == "n2/7", "nobody else wants it yet"
    await world.apply(first, mine)
    assert ask(world.outside, EXTERNAL[4], PORT).who == "n1/7"
    assert ask(world.pod(1, 8), "172.30.0.52", PORT).who == "n2/7", "its own address is not in question"
    await world.apply(gone=[(EndpointSlice, mine.key)])
    assert ask(world.outside, EXTERNAL[4], PORT).action == "reject", "it is still the first's"
    await world.apply(gone=[(Service, first.key)])
    assert ask(world.outside, EXTERNAL[4], PORT).who == "n2/7"


async def test_tcp_and_udp_at_one_port_number_are_two_services(world: ServiceWorld) -> None:
    tcp = (ServicePort(name="tcp", port=PORT),)
    udp = (ServicePort(name="udp", port=PORT, protocol="UDP"),)
    plain: dict[str, Any] = {"type": "ClusterIP", "externalIPs": ()}
    both = [world.service(4, "a", ports=tcp, **plain), world.service(4, "b", ports=udp, **plain)]
    await world.apply(*both, world.slice(4, "n1/7", service="a"), world.slice(4, "n1/8", service="b"))
    client = world.pod(2, 7)
    assert ask(client, CLUSTER[4], PORT).who == "n1/7"
    assert ask(client, CLUSTER[4], PORT, "UDP").who == "n1/8"
    await world.apply(gone=[(Service, both[0].key)])
    assert ask(client, CLUSTER[4], PORT).action == "reject", "the address is in use, the port is not"
    assert ask(client, CLUSTER[4], PORT, "UDP").who == "n1/8"
