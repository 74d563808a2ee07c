"""What every store does: in memory, in files, in Kubernetes' API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.cluster.api_server import BINARIES, write_kubeconfig
from tests.fake_api_server import FakeApiServer

from percale.errors import BadConfig, Conflict, NotFound, StoreUnavailable
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicySpec
from percale.model.node import Node, NodeSpec
from percale.model.selector import LabelSelector
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec, make_lease
from percale.store.memory import MemoryStore
from percale.store.protocol import Deleted, Event, Snapshot, Store, Upserted
from percale.store.registry import SCHEMES as STORE_SCHEMES
from percale.store.registry import Scheme, open_store

PATIENCE = 30.0


def policy(name: str, text: str = "1", namespace: str | None = "default") -> NetworkPolicy:
    """Of a kind of which no API server makes any itself."""
    spec = NetworkPolicySpec(podSelector=LabelSelector(matchLabels={"key": text}), policyTypes=("Ingress",))
    return NetworkPolicy(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec)


def text(obj: Object | None) -> str | None:
    return obj.spec.podSelector.matchLabels["key"] if isinstance(obj, NetworkPolicy) else None


def key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


NODE = Node(metadata=ObjectMeta(name="n1"), spec=NodeSpec(podCIDR="10.1.2.0/24", podCIDRs=("10.1.2.0/24",)))
"""Where leases are annotations of Nodes, there has to be one."""
LEASE = make_lease(SubnetLeaseSpec(node="n1", subnet=IPv4Network("10.1.2.0/24"), publicIP=IPv4Address("192.0.2.1")))


SCHEMES = {**STORE_SCHEMES, "memory": Scheme("memory:NAME", lambda *_: MemoryStore())}
"""The registered stores and one more, as a new kind of store would be added."""


LOCAL = ("memory", "files", "files of another", "etcd of another")
"""The stores whose versions are digests, and whose leases end."""
STORES = (*LOCAL, "kubernetes", *(("kube-apiserver",) if BINARIES is not None else ()))


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """A store to write with, and one to watch with: the same, or two of the same objects."""
    async with AsyncExitStack() as stack:
        match request.param:
            case "memory":
                address = "memory:test"
            case "etcd of another":
                address = f"etcd:{request.getfixturevalue('etcd').url}?prefix=/{request.node.name}"
            case "kubernetes":
                request.getfixturevalue("loopback")
                server = await stack.enter_async_context(FakeApiServer().running())
                address = f"kubernetes:{write_kubeconfig(tmp_path, server.url, 'secret')}"
            case "kube-apiserver":
                address = request.getfixturevalue("kube_apiserver").address
            case _:
                address = f"files:{tmp_path}"
        first = open_store(address, schemes=SCHEMES)
        second = first if request.param in ("memory", "files") else open_store(address, schemes=SCHEMES)
        await first.put(Namespace(metadata=ObjectMeta(name="zoo")))
        yield first, second
        if request.param == "kube-apiserver":
            await delete_all(address, NetworkPolicy, Node)
        await first.close()
        await second.close()


@pytest.fixture
def store(stores: tuple[Store, Store]) -> Store:
    return stores[0]


@pytest.fixture
def other(stores: tuple[Store, Store]) -> Store:
    return stores[1]


async def delete_all(address: str, *kinds: type[Object]) -> None:
    """The real server is one for all tests."""
    store = open_store(address)
    for kind in kinds:
        for obj in await store.list(kind):
            await store.delete(kind, obj.key)
    await store.close()


Next = Callable[[], Awaitable[Event]]


@asynccontextmanager
async def watching(store: Store, *kinds: type[Object]) -> AsyncIterator[Next]:
    async with aclosing(store.watch(*kinds)) as events:  # type: ignore[type-var]
        yield lambda: asyncio.wait_for(anext(events), PATIENCE)


async def test_put_get_list(store: Store, other: Store) -> None:
    written = await store.put(policy("b"))
    await store.put(policy("a", namespace="zoo"))
    await store.put(policy("a"))
    assert await other.get(NetworkPolicy, key("b")) == written
    assert [str(obj.key) for obj in await other.list(NetworkPolicy)] == ["default/a", "default/b", "zoo/a"]
    assert await other.list(Node) == []
    assert await other.get(NetworkPolicy, key("none")) is None


async def test_an_object_without_a_namespace_is_in_default_and_a_node_in_none(store: Store) -> None:
    assert (await store.put(policy("a", namespace=None))).key == key("a")
    node = await store.put(Node(metadata=ObjectMeta(name="n1", namespace="default")))
    assert node.key == ObjectKey(None, "n1")


@pytest.mark.parametrize("stores", LOCAL, indirect=True)
async def test_the_version_is_that_of_the_content(store: Store) -> None:
    first = await store.put(policy("a", "1"))
    second = await store.put(policy("a", "2"))
    third = await store.put(policy("a", "1"))
    assert first.metadata.resourceVersion == third.metadata.resourceVersion != second.metadata.resourceVersion


async def test_create_only(store: Store, other: Store) -> None:
    await store.put(policy("a"), expect="")
    with pytest.raises(Conflict, match="NetworkPolicy default/a exists already"):
        await other.put(policy("a", "2"), expect="")
    assert text(await store.get(NetworkPolicy, key("a"))) == "1"


async def test_compare_and_put(store: Store, other: Store) -> None:
    first = await store.put(policy("a"))
    second = await other.put(replace(first, spec=policy("a", "2").spec), expect=first.metadata.resourceVersion)
    with pytest.raises(Conflict, match="has changed"):
        await store.put(policy("a", "3"), expect=first.metadata.resourceVersion)
    await store.delete(NetworkPolicy, key("a"))
    with pytest.raises(Conflict, match="is gone"):
        await other.put(policy("a", "3"), expect=second.metadata.resourceVersion)


async def test_one_of_many_creators_wins(store: Store, other: Store) -> None:
    puts = [(store, other)[number % 2].put(policy("a", str(number)), expect="") for number in range(20)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    winners = [result for result in results if isinstance(result, NetworkPolicy)]
    assert len(winners) == 1
    assert all(isinstance(result, NetworkPolicy | Conflict) for result in results)
    assert await store.get(NetworkPolicy, key("a")) == winners[0]


async def test_delete(store: Store, other: Store) -> None:
    first = await store.put(policy("a"))
    with pytest.raises(Conflict):
        await other.delete(NetworkPolicy, key("a"), expect="another")
    await other.delete(NetworkPolicy, key("a"), expect=first.metadata.resourceVersion)
    assert await store.get(NetworkPolicy, key("a")) is None
    with pytest.raises(NotFound, match="there is no NetworkPolicy default/a"):
        await store.delete(NetworkPolicy, key("a"))


async def test_a_watch_begins_with_everything_and_goes_on_in_order(store: Store, other: Store) -> None:
    before = await store.put(policy("a"))
    await store.put(NODE)
    await store.put(LEASE)
    async with watching(other, NetworkPolicy) as following:
        assert await following() == Snapshot({NetworkPolicy: [before]})
        second = await store.put(policy("a", "2"))
        assert await following() == Upserted(second)
        third = await store.put(policy("b"))
        assert await following() == Upserted(third)
        await store.put(LEASE, ttl=60)
        await store.delete(NetworkPolicy, key("a"))
        assert await following() == Deleted(second)


async def test_a_watch_of_several_kinds(store: Store, other: Store) -> None:
    await store.put(NODE)
    async with watching(other, NetworkPolicy, SubnetLease) as following:
        assert await following() == Snapshot({NetworkPolicy: [], SubnetLease: []})
        lease = await store.put(LEASE)
        assert await following() == Upserted(lease)
        written = await store.put(policy("a"))
        assert await following() == Upserted(written)


async def test_several_watches_and_a_slow_one(store: Store, other: Store) -> None:
    async with watching(other, NetworkPolicy) as slow, watching(other, NetworkPolicy) as quick:
        assert await slow() == await quick() == Snapshot({NetworkPolicy: []})
        for number in range(50):
            await store.put(policy("a", str(number)))
            event = await quick()
            assert isinstance(event, Upserted)
            assert text(event.object) == str(number)
        for number in range(50):
            event = await slow()
            assert isinstance(event, Upserted)
            assert text(event.object) == str(number)


async def test_equal_content_is_no_event(store: Store, other: Store) -> None:
    first = await store.put(policy("a"))
    async with watching(other, NetworkPolicy) as following:
        await following()
        assert await store.put(policy("a"), expect=first.metadata.resourceVersion) == first
        assert await store.put(policy("a"), ttl=60) == first
        second = await store.put(policy("a", "2"))
        assert await following() == Upserted(second)


@pytest.mark.parametrize("stores", LOCAL, indirect=True)
async def test_a_lease_ends(store: Store, other: Store) -> None:
    async with watching(other, SubnetLease) as following:
        await following()
        lease = await store.put(LEASE, expect="", ttl=60)
        assert await following() == Upserted(lease)
        await store.put(LEASE, expect=lease.metadata.resourceVersion, ttl=0.05)
        assert await following() == Deleted(lease)
    assert await store.get(SubnetLease, LEASE.key) is None
    await other.put(LEASE, expect="")


@pytest.mark.parametrize("stores", LOCAL, indirect=True)
async def test_a_renewed_lease_goes_on(store: Store, other: Store) -> None:
    lease = await store.put(LEASE, ttl=1)
    await store.put(LEASE, expect=lease.metadata.resourceVersion, ttl=60)
    async with watching(other, SubnetLease) as following:
        assert await following() == Snapshot({SubnetLease: [lease]})
        await asyncio.sleep(1.2)  # beyond the end that it had
        assert await other.get(SubnetLease, LEASE.key) == lease


@pytest.mark.parametrize("stores", LOCAL, indirect=True)
async def test_a_put_without_ttl_makes_a_lease_lasting(store: Store, other: Store) -> None:
    await store.put(LEASE, ttl=0.05)
    lease = await store.put(LEASE)
    await asyncio.sleep(0.1)  # beyond the end that it had
    assert await other.list(SubnetLease) == [lease]


async def test_closing_ends_the_watches(store: Store, other: Store) -> None:
    async with watching(other, NetworkPolicy) as following:
        await following()
        await other.close()
        with pytest.raises(StopAsyncIteration):
            await following()
    with pytest.raises(StoreUnavailable, match="closed"):
        await other.list(NetworkPolicy)


def test_an_address_of_no_scheme_is_refused_with_what_there_is() -> None:
    for address in ("consul:x", "files:", "nothing", "kubernetes"):
        with pytest.raises(BadConfig, match=r"write files:/DIRECTORY or .* or memory:NAME"):
            open_store(address, schemes=SCHEMES)
