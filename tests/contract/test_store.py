"""What every store does, in memory and in files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from msgspec.structs import replace

from percale.errors import BadConfig, Conflict, NotFound, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec, make_lease
from percale.store.memory import MemoryStore
from percale.store.protocol import Deleted, Event, Snapshot, Store, Upserted
from percale.store.registry import SCHEMES as STORE_SCHEMES
from percale.store.registry import Scheme, open_store

PATIENCE = 30.0


def config(name: str, text: str = "1", namespace: str | None = "default") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace=namespace), data={"key": text})


def text(obj: Object | None) -> str | None:
    return obj.data["key"] if isinstance(obj, ConfigMap) else None


def key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


LEASE = make_lease(SubnetLeaseSpec(node="n1", subnet=IPv4Network("10.1.2.0/24"), publicIP=IPv4Address("192.0.2.1")))


SCHEMES = {**STORE_SCHEMES, "memory": Scheme("memory:NAME", lambda name, kinds: MemoryStore())}
"""The registered stores and one more, as a new kind of store would be added."""


@pytest.fixture(params=["memory", "files", "files of another"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """A store to write with, and one to watch with: the same, or two on one directory."""
    address = "memory:test" if request.param == "memory" else f"files:{tmp_path}"
    first = open_store(address, schemes=SCHEMES)
    second = open_store(address, schemes=SCHEMES) if request.param == "files of another" else first
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def store(stores: tuple[Store, Store]) -> Store:
    return stores[0]


@pytest.fixture
def other(stores: tuple[Store, Store]) -> Store:
    return stores[1]


Next = Callable[[], Awaitable[Event]]


@asynccontextmanager
async def watching(store: Store, *kinds: type[Object]) -> AsyncIterator[Next]:
    async with aclosing(store.watch(*kinds)) as events:  # type: ignore[type-var]
        yield lambda: asyncio.wait_for(anext(events), PATIENCE)


async def test_put_get_list(store: Store, other: Store) -> None:
    written = await store.put(config("b"))
    await store.put(config("a", namespace="zoo"))
    await store.put(config("a"))
    assert await other.get(ConfigMap, key("b")) == written
    assert [str(obj.key) for obj in await other.list(ConfigMap)] == ["default/a", "default/b", "zoo/a"]
    assert await other.list(Node) == []
    assert await other.get(ConfigMap, key("none")) is None


async def test_an_object_without_a_namespace_is_in_default_and_a_node_in_none(store: Store) -> None:
    assert (await store.put(config("a", namespace=None))).key == key("a")
    node = await store.put(Node(metadata=ObjectMeta(name="n1", namespace="default")))
    assert node.key == ObjectKey(None, "n1")


async def test_the_version_is_that_of_the_content(store: Store) -> None:
    first = await store.put(config("a", "1"))
    second = await store.put(config("a", "2"))
    third = await store.put(config("a", "1"))
    assert first.metadata.resourceVersion == third.metadata.resourceVersion != second.metadata.resourceVersion


async def test_create_only(store: Store, other: Store) -> None:
    await store.put(config("a"), expect="")
    with pytest.raises(Conflict, match="ConfigMap default/a exists already"):
        await other.put(config("a", "2"), expect="")
    assert text(await store.get(ConfigMap, key("a"))) == "1"


async def test_compare_and_put(store: Store, other: Store) -> None:
    first = await store.put(config("a"))
    second = await other.put(replace(first, data={"key": "2"}), expect=first.metadata.resourceVersion)
    with pytest.raises(Conflict, match="has changed"):
        await store.put(config("a", "3"), expect=first.metadata.resourceVersion)
    await store.delete(ConfigMap, key("a"))
    with pytest.raises(Conflict, match="is gone"):
        await other.put(config("a", "3"), expect=second.metadata.resourceVersion)


async def test_one_of_many_creators_wins(store: Store, other: Store) -> None:
    puts = [(store, other)[number % 2].put(config("a", str(number)), expect="") for number in range(20)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    winners = [result for result in results if isinstance(result, ConfigMap)]
    assert len(winners) == 1
    assert all(isinstance(result, ConfigMap | Conflict) for result in results)
    assert await store.get(ConfigMap, key("a")) == winners[0]


async def test_delete(store: Store, other: Store) -> None:
    first = await store.put(config("a"))
    with pytest.raises(Conflict):
        await other.delete(ConfigMap, key("a"), expect="another")
    await other.delete(ConfigMap, key("a"), expect=first.metadata.resourceVersion)
    assert await store.get(ConfigMap, key("a")) is None
    with pytest.raises(NotFound, match="there is no ConfigMap default/a"):
        await store.delete(ConfigMap, key("a"))


async def test_a_watch_begins_with_everything_and_goes_on_in_order(store: Store, other: Store) -> None:
    before = await store.put(config("a"))
    await store.put(LEASE)
    async with watching(other, ConfigMap) as following:
        assert await following() == Snapshot({ConfigMap: [before]})
        second = await store.put(config("a", "2"))
        assert await following() == Upserted(second)
        third = await store.put(config("b"))
        assert await following() == Upserted(third)
        await store.put(LEASE, ttl=60)
        await store.delete(ConfigMap, key("a"))
        assert await following() == Deleted(second)


async def test_a_watch_of_several_kinds(store: Store, other: Store) -> None:
    async with watching(other, ConfigMap, SubnetLease) as following:
        assert await following() == Snapshot({ConfigMap: [], SubnetLease: []})
        lease = await store.put(LEASE)
        assert await following() == Upserted(lease)
        config_map = await store.put(config("a"))
        assert await following() == Upserted(config_map)


async def test_several_watches_and_a_slow_one(store: Store, other: Store) -> None:
    async with watching(other, ConfigMap) as slow, watching(other, ConfigMap) as quick:
        assert await slow() == await quick() == Snapshot({ConfigMap: []})
        for number in range(50):
            await store.put(config("a", str(number)))
            event = await quick()
            assert isinstance(event, Upserted)
            assert text(event.object) == str(number)
        for number in range(50):
            event = await slow()
            assert isinstance(event, Upserted)
            assert text(event.object) == str(number)


async def test_equal_content_is_no_event(store: Store, other: Store) -> None:
    first = await store.put(config("a"))
    async with watching(other, ConfigMap) as following:
        await following()
        assert await store.put(config("a"), expect=first.metadata.resourceVersion) == first
        assert await store.put(config("a"), ttl=60) == first
        second = await store.put(config("a", "2"))
        assert await following() == Upserted(second)


async def test_a_lease_ends(store: Store, other: Store) -> None:
    async with watching(other, SubnetLease) as following:
        await following()
        lease = await store.put(LEASE, expect="", ttl=0.05)
        assert await following() == Upserted(lease)
        assert await following() == Deleted(lease)
    assert await store.get(SubnetLease, LEASE.key) is None
    await other.put(LEASE, expect="")


async def test_a_renewed_lease_goes_on(store: Store, other: Store) -> None:
    lease = await store.put(LEASE, ttl=0.05)
    await store.put(LEASE, expect=lease.metadata.resourceVersion, ttl=0.4)
    async with watching(other, SubnetLease) as following:
        assert await following() == Snapshot({SubnetLease: [lease]})
        await asyncio.sleep(0.1)  # beyond the first end, before the second
        assert await other.get(SubnetLease, LEASE.key) == lease
        assert await following() == Deleted(lease)


async def test_a_put_without_ttl_makes_a_lease_lasting(store: Store, other: Store) -> None:
    await store.put(LEASE, ttl=0.05)
    lease = await store.put(LEASE)
    await asyncio.sleep(0.1)  # beyond the end that it had
    assert await other.list(SubnetLease) == [lease]


async def test_closing_ends_the_watches(store: Store, other: Store) -> None:
    async with watching(other, ConfigMap) as following:
        await following()
        await other.close()
        with pytest.raises(StopAsyncIteration):
            await following()
    with pytest.raises(StoreUnavailable, match="closed"):
        await other.list(ConfigMap)


def test_an_address_of_no_scheme_is_refused_with_what_there_is() -> None:
    for address in ("etcd:x", "files:", "nothing"):
        with pytest.raises(BadConfig, match=r"write files:/DIRECTORY or memory:NAME"):
            open_store(address, schemes=SCHEMES)
