"""Which endpoint a client gets: strategies with fixed bounds, clients that stay, and who may ask at all. Real packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import Machine, eventually
from tests.kernel.service_world import (
    CLUSTER,
    EXTERNAL,
    LB,
    NODE_PORT,
    PORT,
    SILENCE,
    TARGET,
    Seen,
    ServiceWorld,
    all_at_once,
    ask,
    runs,
    service_world,
)
from tests.waiting import PATIENCE

from percale.model.meta import ObjectKey
from percale.model.service import ClientIPConfig, ServicePort, SessionAffinityConfig
from percale.service.strategies import STRATEGY_ANNOTATION, WEIGHTS_ANNOTATION

BOTH = pytest.mark.parametrize("version", [4, 6])
PLAIN = (ServicePort(name="tcp", port=PORT),)
ALL = ("n1/7", "n1/8", "n2/7", "n2/8")


@pytest_asyncio.fixture
async def world(new_space: Callable[[], Space]) -> AsyncIterator[ServiceWorld]:
    async with service_world(new_space) as made:
        yield made


def by(strategy: str, weights: str = "") -> dict[str, Any]:
    return {"annotations": {STRATEGY_ANNOTATION: strategy, **({WEIGHTS_ANNOTATION: weights} if weights else {})}}


def staying(seconds: int = 10800) -> dict[str, Any]:
    config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=seconds))
    return {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}


def who(seen: Iterable[Seen]) -> list[str]:
    return [each.who for each in seen]


def many(machine: Machine, target: str, count: int, port: int = PORT) -> Counter[str]:
    return Counter(who(all_at_once([partial(ask, machine, target, port)] * count)))


def sources(world: ServiceWorld, version: int, count: int) -> list[str]:
    """More addresses for the host outside."""
    network = "192.168.1.{}" if version == 4 else "fd00:1::{:x}"
    addresses = [network.format(100 + n) for n in range(count)]
    for address in addresses:
        length, nodad = (24, "") if version == 4 else (64, "nodad")
        world.outside.sh(f"ip addr add {address}/{length} dev eth0 {nodad}")
    return addresses


# Strategies


@BOTH
async def test_random(world: ServiceWorld, version: int) -> None:
    await world.apply(world.service(version), world.slice(version, *ALL))
    found = many(world.outside, CLUSTER[version], 400)
    assert sorted(found) == list(ALL)
    assert min(found.values()) >= 60, "100 of each are expected; less than 60 happens once in a million runs"


@BOTH
async def test_rr_is_strict_and_each_services_own(world: ServiceWorld, version: int) -> None:
    other = "172.30.0.42" if version == 4 else "fd00:172::42"
    await world.apply(
        world.service(version, **by("rr")),
        world.service(version, "other", clusterIP=other, externalIPs=(), **by("rr"), type="ClusterIP", ports=PLAIN),
        world.slice(version, *ALL),
        world.slice(version, *ALL, service="other"),
    )
    turns: dict[str, list[str]] = {CLUSTER[version]: [], other: []}
    for target in (
        CLUSTER[version],
        other,
        other,
        CLUSTER[version],
        other,
        CLUSTER[version],
        CLUSTER[version],
        other,
    ) * 4:
        turns[target] += who(runs(world.outside, target, PORT, 1))
    for found in turns.values():
        assert Counter(found) == dict.fromkeys(ALL, 4)
        assert found[:4] * 4 == found


async def test_wrr(world: ServiceWorld) -> None:
    weights = f"{world.pod(1, 7).addresses[4]}=5, node/n2=1, *=0"
    await world.apply(world.service(4, **by("wrr", weights)), world.slice(4, *ALL))
    found = who(runs(world.outside, CLUSTER[4], PORT, 21))
    assert Counter(found) == {"n1/7": 15, "n2/7": 3, "n2/8": 3}
    assert ["n1/7"] * 6 not in [found[n : n + 6] for n in range(16)], "the others come in between"


@BOTH
@pytest.mark.parametrize("strategy", ["sh", "mh"])
async def test_a_hash_of_the_client(world: ServiceWorld, version: int, strategy: str) -> None:
    await world.apply(world.service(version, **by(strategy)), world.slice(version, *ALL))
    clients = sources(world, version, 60)

    def choices() -> dict[str, str]:
        asked = [partial(ask, world.outside, CLUSTER[version], PORT, source=(client, 0)) for client in clients]
        return dict(zip(clients, who(all_at_once(asked)), strict=True))

    before = choices()
    assert choices() == before, "the same client, the same endpoint"
    assert len(set(before.values())) == 4
    if strategy == "mh":
        await world.apply(world.slice(version, *ALL[:3]))
        after = choices()
        moved = [client for client in clients if before[client] != after[client] and before[client] != ALL[3]]
        assert len(moved) <= 0.05 * len(clients)
        assert ALL[3] not in after.values()


async def test_lc_gives_more_to_those_with_few_connections(world: ServiceWorld) -> None:
    await world.apply(world.service(4, **by("lc")), world.slice(4, "n1/7", "n1/8"))
    node = world.nodes[0]
    busy = ip_address(world.pod(1, 7).addresses[4]).packed + TARGET.to_bytes(2)
    node.elements.connections = {(6, busy): 1000}
    await node.nft_table.apply(node.elements.update([ObjectKey("ns", "web")]))
    found = many(world.pod(1, 8), CLUSTER[4], 200)
    assert 5 <= found["n1/7"] <= 50, "20 are expected"
    node.elements.connections = {}
    await node.nft_table.apply(node.elements.update([ObjectKey("ns", "web")]))
    assert not await node.nft_table.sync(node.elements.snapshot())


# Clients that stay


@BOTH
async def test_clients_stay(world: ServiceWorld, version: int) -> None:
    await world.apply(world.service(version, **staying()), world.slice(version, *ALL))
    for machine in (world.pod(1, 7), world.nodes[0].node, world.outside):
        first = ask(machine, CLUSTER[version], PORT).who
        assert first
        assert many(machine, CLUSTER[version], 300) == {first: 300}
        for target, port in (
            (EXTERNAL[version], PORT),
            (LB[version], PORT),
            (world.nodes[0].address(version), NODE_PORT),
        ):
            assert many(machine, target, 20, port) == {first: 20}, "over all addresses of the service port"
    ports = Counter(who(runs(world.outside, CLUSTER[version], PORT, 3, "UDP")))
    assert len(ports) == 1, "UDP is another service port, and its clients stay too"


@BOTH
async def test_a_remembered_endpoint_that_goes_is_forgotten_and_the_others_are_not(
    world: ServiceWorld, version: int
) -> None:
    await world.apply(world.service(version, **staying()), world.slice(version, *ALL))
    node = world.nodes[0]
    node.elements.stale_affinity_maps.clear()
    clients = sources(world, version, 40)

    def choices() -> dict[str, str]:
        asked = [partial(ask, world.outside, CLUSTER[version], PORT, source=(client, 0)) for client in clients]
        return dict(zip(clients, who(all_at_once(asked)), strict=True))

    before = choices()
    gone = before[clients[0]]
    await world.apply(world.slice(version, *(name for name in ALL if name != gone)))
    assert await node.nft_table.prune(node.elements.stale_affinity_maps) == list(before.values()).count(gone)
    after = choices()
    assert gone not in after.values()
    assert all(after[client] == name for client, name in before.items() if name != gone)
    assert choices() == after, "the new endpoint is remembered"
    assert not await node.nft_table.sync(node.elements.snapshot()), "remembered clients are nothing to repair"


@BOTH
async def test_who_comes_when_no_more_clients_can_be_remembered_is_served(
    world: ServiceWorld, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any endpoint; who is remembered stays, and who comes to another service is remembered there."""
    monkeypatch.setattr("percale.kernel.nftables.set_codec.DYNAMIC_MAP_SIZE", 5)
    await world.apply(world.service(version, **staying()), world.slice(version, *ALL))
    clients = sources(world, version, 40)

    def choices() -> list[str]:
        asked = [partial(ask, world.outside, CLUSTER[version], PORT, source=(client, 0)) for client in clients]
        return who(each() for each in asked)

    seen = [choices() for _ in range(8)]
    assert all(choice for each in seen for choice in each), "all are served"
    staying_ones = {
        client for client, chosen in zip(clients, zip(*seen, strict=True), strict=True) if len({*chosen}) == 1
    }
    assert {*clients[:5]} <= staying_ones
    assert len(staying_ones) < len(clients), "it was full"
    assert len({*who(runs(world.outside, CLUSTER[version], PORT, 10, "UDP"))}) == 1


async def test_the_timeout_begins_anew_with_each_connection(world: ServiceWorld) -> None:
    await world.apply(world.service(4, **staying(2)), world.slice(4, *ALL))
    first = ask(world.outside, CLUSTER[4], PORT).who
    for _ in range(12):
        world.outside.sh("sleep 0.25")
        assert ask(world.outside, CLUSTER[4], PORT).who == first
    (name,) = {each.name for each in world.nodes[0].elements.snapshot().put_sets if "tcp" in each.comment}

    def forgotten() -> bool:
        return "192.168.1.9" not in world.nft(1, "list", "map", "inet", "percale", name)

    await eventually(forgotten)


async def test_a_client_from_outside_stays_on_this_node_where_the_policy_says_so(world: ServiceWorld) -> None:
    """It is remembered for the cluster IP too, but what it chose there is on any node."""
    local = world.service(4, externalTrafficPolicy="Local", **staying())
    await world.apply(local, world.slice(4, "n1/7", "n1/8", "n2/7"))
    clients = sources(world, 4, 30)
    anywhere = [ask(world.outside, CLUSTER[4], PORT, source=(client, 0)).who for client in clients]
    assert "n2/7" in anywhere
    for client, chosen in zip(clients, anywhere, strict=True):
        near = {ask(world.outside, LB[4], PORT, source=(client, 0)).who for _ in range(4)}
        assert len(near) == 1
        assert near == {chosen} if chosen.startswith("n1/") else near < {"n1/7", "n1/8"}


# Who may ask


@BOTH
async def test_source_ranges_are_for_load_balancer_addresses_alone(world: ServiceWorld, version: int) -> None:
    mine, theirs = ("192.168.1.9/32", "192.168.1.2/32") if version == 4 else ("fd00:1::9/128", "fd00:1::2/128")
    for ranges, action in (((theirs,), "drop"), ((mine, theirs), "endpoints")):
        await world.apply(
            world.service(version, loadBalancerSourceRanges=ranges, externalTrafficPolicy="Local"),
            world.slice(version, *ALL),
        )
        within = SILENCE if action == "drop" else PATIENCE
        assert ask(world.outside, LB[version], PORT, within=within).action == action
        assert ask(world.outside, EXTERNAL[version], PORT).action == "endpoints"
        assert ask(world.pod(1, 7), LB[version], PORT, within=SILENCE).action == "drop", "pods are not in range either"
        assert ask(world.nodes[0].node, LB[version], PORT, within=SILENCE).action == "drop"
        assert ask(world.nodes[1].node, LB[version], PORT).action == "endpoints"
    await world.apply(world.slice(version))
    assert ask(world.outside, LB[version], PORT).action == "reject"
    assert ask(world.pod(1, 7), LB[version], PORT, within=SILENCE).action == "drop", (
        "who may not ask is not even refused"
    )


@BOTH
async def test_the_node_may_ask_at_a_load_balancer_address_that_it_has_itself(
    world: ServiceWorld, version: int
) -> None:
    """Then its packets come from there."""
    node = world.nodes[0]
    node.node.sh(f"ip addr add {LB[version]}/{32 if version == 4 else 128} dev lo")
    mine = "192.168.1.1/32" if version == 4 else "fd00:1::1/128"
    await world.apply(world.service(version, loadBalancerSourceRanges=(mine,)), world.slice(version, "n2/7"))
    seen = ask(node.node, LB[version], PORT)
    assert seen.who == "n2/7"


# Policies


@BOTH
async def test_a_policy_is_judged_by_the_client_and_the_endpoint(world: ServiceWorld, version: int) -> None:
    """After DNAT and before masquerade: the host outside is masqueraded later, and still seen as itself."""
    await world.apply(world.service(version), world.slice(version, "n1/7"))
    pod, ip = world.pod(1, 7).addresses[version], "ip" if version == 4 else "ip6"
    outside = "192.168.1.9" if version == 4 else "fd00:1::9"
    world.nft(1, "add chain inet percale judged; add rule inet percale judged drop")
    for rule, action in (
        (f"{ip} saddr {outside} th dport {TARGET} return", "endpoints"),
        (f"{ip} saddr 192.168.1.1 return" if version == 4 else "ip6 saddr fd00:1::1 return", "drop"),
    ):
        world.nft(
            1,
            f"flush chain inet percale judged; add rule inet percale judged {rule}; add rule inet percale judged drop",
        )
        world.nft(
            1,
            f"flush map inet percale ingress{version}; add element inet percale ingress{version} {{ {pod} : goto judged }}",
        )
        within = SILENCE if action == "drop" else PATIENCE
        assert ask(world.outside, EXTERNAL[version], PORT, within=within).action == action
        assert ask(world.outside, CLUSTER[version], PORT, within=within).action == action
