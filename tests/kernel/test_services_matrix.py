"""Every kind of service × traffic policy × client's place with real packets, held against the resolver.

Each answer says which pod gave it and whom that pod saw, so that endpoints and masquerade are both compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_address
from itertools import product
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.inside import inside
from tests.kernel.nodes import Machine
from tests.kernel.service_world import (
    CLUSTER,
    EXTERNAL,
    KINDS,
    LB,
    NODE_PORT,
    PORT,
    SILENCE,
    UNUSED,
    Seen,
    ServiceNode,
    ServiceWorld,
    all_at_once,
    ask,
    service_world,
)
from tests.waiting import PATIENCE

from percale.kernel.netlink.conntrack import SOURCE_TRANSLATED, Conntrack
from percale.service.packet_lookup import Answer, resolve

VXLAN_PORT = 8472
BOTH = pytest.mark.parametrize("version", [4, 6])
POLICIES: list[dict[str, Any]] = [
    {"internalTrafficPolicy": inside, "externalTrafficPolicy": outside}
    for inside, outside in product(("Cluster", "Local"), repeat=2)
]
ENDPOINTS = {"on both nodes": ("n1/7", "n2/7"), "on n2 only": ("n2/7",), "the client alone": ("n1/7",), "nowhere": ()}


@pytest_asyncio.fixture
async def world(new_space: Callable[[], Space]) -> AsyncIterator[ServiceWorld]:
    async with service_world(new_space) as made:
        yield made


class Question(NamedTuple):
    """`judge` is the node whose table decides, and sees the client as `source`."""

    client: Machine
    name: str
    judge: ServiceNode
    source: str
    target: str
    port: int
    protocol: str


def questions(world: ServiceWorld, version: int) -> list[Question]:
    """Every client and every address."""
    found = []
    clients: list[tuple[str, Machine, ServiceNode | None, str]] = [
        ("outside", world.outside, None, "192.168.1.9" if version == 4 else "fd00:1::9")
    ]
    for each in world.nodes:
        clients.append((each.node.name, each.node, each, each.address(version)))
        clients += [(f"{each.node.name}/{pod.number}", pod, each, pod.addresses[version]) for pod in each.node.pods]
    addresses = [(CLUSTER, PORT), (CLUSTER, PORT + 1), (UNUSED, PORT), (EXTERNAL, PORT), (LB, PORT)]
    for (name, client, home, source), protocol in product(clients, KINDS):
        judge = home or world.nodes[0]
        found += [Question(client, name, judge, source, where[version], port, protocol) for where, port in addresses]
        for node in world.nodes:
            # A pod's packets leave the pod network with the address of their node.
            seen = source if home in (None, node) else home.address(version)
            found.append(Question(client, name, node, seen, node.address(version), NODE_PORT, protocol))
    return found


def said(question: Question) -> Answer:
    source, target = ip_address(question.source), ip_address(question.target)
    return resolve(question.judge.table, source, target, question.port, question.protocol)  # type: ignore[arg-type]


def put(question: Question, answer: Answer) -> Seen:
    within = PATIENCE if answer.action == "endpoints" else SILENCE
    return ask(question.client, question.target, question.port, question.protocol, within=within)


def agrees(world: ServiceWorld, question: Question, answer: Answer, seen: Seen) -> bool:
    if answer.action != "endpoints":
        return seen.action == answer.action
    if seen.action != "endpoints":
        return False
    node, _, number = seen.who.partition("/")
    pod = world.pod(int(node[1:]), int(number))
    version = ip_address(question.target).version
    masqueraded = answer.masquerade or pod.addresses[version] == question.source
    of_judge = question.judge.node.sh("ip -o addr").split()
    is_judge = any(word.partition("/")[0] == seen.client for word in of_judge)
    return f"{ip_address(pod.addresses[version])}" in str(answer.endpoints) and (
        is_judge if masqueraded else seen.client == question.source
    )


@BOTH
@pytest.mark.parametrize("endpoints", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_packets_go_where_the_resolver_says(
    world: ServiceWorld, version: int, endpoints: tuple[str, ...]
) -> None:
    for policy in POLICIES:
        await world.apply(world.service(version, **policy), world.slice(version, *endpoints))
        compare(world, version)


@BOTH
async def test_the_same_without_a_tunnel(new_space: Callable[[], Space], version: int) -> None:
    async with service_world(new_space, "host-gw") as world:
        await world.apply(world.service(version), world.slice(version, "n1/7", "n2/7"))
        compare(world, version)


@BOTH
async def test_a_nodes_own_connections_arrive_with_its_own_address_under_policy_local(
    world: ServiceWorld, version: int
) -> None:
    """Not with the tunnel's: for the pods' network a node would be a client outside."""
    await world.apply(world.service(version, externalTrafficPolicy="Local"), world.slice(version, "n2/7"))
    own = world.nodes[0].address(version)
    for (target, port), protocol in product([(own, NODE_PORT), (EXTERNAL[version], PORT), (LB[version], PORT)], KINDS):
        seen = ask(world.nodes[0].node, target, port, protocol)
        assert (seen.action, seen.who, seen.client) == ("endpoints", "n2/7", own)


@BOTH
async def test_masquerade_all(new_space: Callable[[], Space], version: int) -> None:
    async with service_world(new_space, masquerade_all=True) as world:
        await world.apply(world.service(version), world.slice(version, "n1/7", "n2/7"))
        compare(world, version)


async def test_a_tunnels_outer_packets_keep_their_address_and_port(world: ServiceWorld) -> None:
    """What is masqueraded within is not masqueraded again around it, though the outer packet inherits the mark.

    Where somebody tracks it, that is: our own tables let outer packets pass untracked.
    """
    await world.apply(world.service(4), world.slice(4, "n2/7"))
    node = world.nodes[0].node
    node.sh("nft flush chain ip percale output")
    node.sh("conntrack -F")
    assert {ask(world.outside, CLUSTER[4], PORT).who for _ in range(20)} == {"n2/7"}
    with contextlib.closing(inside(node, Conntrack)) as conntrack:
        inner = [flow for flow in conntrack.flows() if flow.original.destination == ip_address(CLUSTER[4]).packed]
        outer = [flow for flow in conntrack.flows() if flow.original.destination_port == VXLAN_PORT]
    assert inner
    assert all(flow.status & SOURCE_TRANSLATED for flow in inner)
    assert outer
    assert not any(flow.status & SOURCE_TRANSLATED for flow in outer)


def compare(world: ServiceWorld, version: int) -> None:
    """Ask everything at once."""
    expected = [(each, said(each)) for each in questions(world, version)]
    seen_by_each = all_at_once([partial(put, question, answer) for question, answer in expected])
    wrong = []
    for (question, answer), seen in zip(expected, seen_by_each, strict=True):
        assert answer.action != "none"
        if not agrees(world, question, answer, seen):
            wrong.append(f"{question.name} → {question[4:]}: {answer} but {seen}")
    assert not wrong, "\n".join(wrong)
