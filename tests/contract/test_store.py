"""What every store does, the fake and the real ones alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from percale.errors import Conflict, NotFound
from percale.model.configmap import ConfigMap
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.store.files import FilesStore
from percale.store.memory import MemoryStore
from percale.store.protocol import Deleted, Event, Snapshot, Store, Upserted


@pytest.fixture(params=["memory", "files"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else FilesStore(tmp_path / "store")
    yield made
    await made.close()


def config(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


KEY = ObjectKey("default", "a")


async def upcoming(events: AsyncIterator[Event]) -> Event:
    async with asyncio.timeout(5):
        return await anext(events)


async def test_what_is_put_is_found(store: Store) -> None:
    written = await store.put(config("a", x="1"))
    assert written.metadata.resourceVersion
    assert await store.get(ConfigMap, KEY) == written
    assert await store.list(ConfigMap) == [written]
    assert await store.list(Namespace) == []


async def test_lists_are_in_the_order_of_keys(store: Store) -> None:
    for name in ("b", "c", "a"):
        await store.put(config(name))
    assert [obj.metadata.name for obj in await store.list(ConfigMap)] == ["a", "b", "c"]


async def test_creating_what_exists_is_a_conflict(store: Store) -> None:
    first = await store.put(config("a", x="1"), expect="")
    with pytest.raises(Conflict, match="exists already"):
        await store.put(config("a", x="2"), expect="")
    assert await store.get(ConfigMap, KEY) == first


async def test_an_old_version_loses(store: Store) -> None:
    first = await store.put(config("a", x="1"))
    second = await store.put(config("a", x="2"), expect=first.metadata.resourceVersion)
    with pytest.raises(Conflict, match="has changed"):
        await store.put(config("a", x="3"), expect=first.metadata.resourceVersion)
    assert await store.get(ConfigMap, KEY) == second


async def test_changing_what_is_gone_is_a_conflict(store: Store) -> None:
    first = await store.put(config("a"))
    await store.delete(ConfigMap, KEY)
    with pytest.raises(Conflict, match="is gone"):
        await store.put(config("a"), expect=first.metadata.resourceVersion)


async def test_delete_compares_too(store: Store) -> None:
    first = await store.put(config("a", x="1"))
    await store.put(config("a", x="2"))
    with pytest.raises(Conflict):
        await store.delete(ConfigMap, KEY, expect=first.metadata.resourceVersion)
    await store.delete(ConfigMap, KEY)
    assert await store.get(ConfigMap, KEY) is None
    with pytest.raises(NotFound):
        await store.delete(ConfigMap, KEY)


async def test_a_watch_begins_with_everything_and_goes_on_in_order(store: Store) -> None:
    first = await store.put(config("a", x="1"))
    events = store.watch(ConfigMap)
    assert await upcoming(events) == Snapshot((first,))
    second = await store.put(config("a", x="2"))
    other = await store.put(config("b"))
    await store.delete(ConfigMap, KEY)
    assert [await upcoming(events) for _ in range(3)] == [Upserted(second), Upserted(other), Deleted(second)]


async def test_a_watch_tells_of_its_kinds_only(store: Store) -> None:
    events = store.watch(ConfigMap)
    assert await upcoming(events) == Snapshot(())
    await store.put(Namespace(metadata=ObjectMeta(name="quiet")))
    wanted = await store.put(config("a"))
    assert await upcoming(events) == Upserted(wanted)


async def test_equal_content_is_no_event(store: Store) -> None:
    events = store.watch(ConfigMap)
    await upcoming(events)
    first = await store.put(config("a", x="1"))
    assert await store.put(config("a", x="1")) == first
    other = await store.put(config("b"))
    assert [await upcoming(events) for _ in range(2)] == [Upserted(first), Upserted(other)]


async def test_a_lease_ends_and_a_renewed_one_does_not(store: Store) -> None:
    events = store.watch(ConfigMap)
    await upcoming(events)
    short = await store.put(config("a"), ttl=0.3)
    long = await store.put(config("b"), ttl=0.3)
    assert await store.put(config("b"), ttl=60) == long
    assert [await upcoming(events) for _ in range(2)] == [Upserted(short), Upserted(long)]
    assert await upcoming(events) == Deleted(short)
    assert await store.list(ConfigMap) == [long]


async def test_only_one_of_many_creates(store: Store) -> None:
    async def attempt(number: int) -> bool:
        try:
            await store.put(config("a", number=str(number)), expect="")
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt(number) for number in range(20)))) == 1


async def test_closing_ends_watches(store: Store) -> None:
    events = store.watch(ConfigMap)
    await upcoming(events)
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await upcoming(events)


async def test_names_that_no_file_could_have(store: Store) -> None:
    for name in ("10.1.2.0-24&fd00--1-64", "a/b", "..", "x%y"):
        obj: Object = config(name)
        written = await store.put(obj)
        assert await store.get(ConfigMap, ObjectKey("default", name)) == written
    assert len(await store.list(ConfigMap)) == 4
