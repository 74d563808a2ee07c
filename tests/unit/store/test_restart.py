"""A store that is a server and away when an agent starts: the agent has what the last one knew, and then the differences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.unit.store.conftest import upcoming
from tests.unit.store.server_world import World, config, server_world

from percale.errors import StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.networkpolicy import NetworkPolicy
from percale.store import kind_cache
from percale.store.etcd import watch as etcd_watch
from percale.store.kubernetes import list_watch
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted


@pytest.fixture(params=["etcd", "kubernetes"])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, loopback: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    for module in (etcd_watch, list_watch):
        monkeypatch.setattr(module, "_FIRST_RETRY", 0.01)
        monkeypatch.setattr(module, "_LONGEST_RETRY", 0.05)
    port = request.getfixturevalue("etcd").port if request.param == "etcd" else None
    async with server_world(tmp_path, port, request.node.name) as made:
        yield made


def said(event: Event) -> str:
    match event:
        case Snapshot():
            return "all " + " ".join(f"{each.metadata.name}={each.data['x']}" for each in event.of(ConfigMap))
        case Upserted(ConfigMap() as obj):
            return f"put {obj.metadata.name}={obj.data['x']}"
        case Deleted(ConfigMap() as obj):
            return f"deleted {obj.metadata.name}"
        case ReadProblem(source, None):
            return f"solved {source}"
        case ReadProblem(source, _, complete):
            return f"problem {source}{'' if complete else ', incomplete'}"
    raise AssertionError(event)


async def until(events: AsyncIterator[Event], last: str | Callable[[str], bool]) -> list[str]:
    seen: list[str] = []
    while not seen or (seen[-1] != last if isinstance(last, str) else not last(seen[-1])):
        seen.append(said(await upcoming(events)))
    return seen


async def test_it_has_what_the_last_life_knew_and_then_the_differences(world: World) -> None:
    await world.last_life("changed", "gone", "kept")
    world.proxy.stop()
    store = world.open()
    async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
        before = await until(events, lambda text: text.startswith("all "))
        assert before[-1] == "all changed=1 gone=1 kept=1"
        assert "problem last state" in before
        await world.direct.put(config("changed", "2"))
        await world.direct.delete(ConfigMap, config("gone").key)
        await world.direct.put(config("new"))
        await world.proxy.start()
        after = await until(events, "solved last state")
        told = [each for each in after if each.startswith(("put", "deleted", "all"))]
        assert sorted(told) == ["deleted gone", "put changed=2", "put new=1"]
        written = await world.direct.put(config("later"))
        assert (await until(events, "put later=1"))[-1] and written
    await store.close()


async def test_nobody_waits_for_what_may_be_missing(world: World) -> None:
    """All objects of the last life are there: then what cannot be read hides none."""
    await world.last_life("a")
    world.proxy.stop()
    store = world.open()
    current: dict[str, bool] = {}
    async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
        seen_all = False
        while not seen_all or not all(current.values()) or len(current) < 2:
            event = await upcoming(events)
            seen_all = seen_all or isinstance(event, Snapshot)
            if isinstance(event, ReadProblem) and event.error is not None:
                current[event.source] = event.complete
                assert isinstance(event.error, StoreUnavailable)
    await store.close()


async def test_without_a_last_state_of_every_kind_there_is_no_snapshot(world: World) -> None:
    """The kind that is missing may be the policies."""
    await world.last_life("a")
    (world.disk / "NetworkPolicy").unlink()
    world.proxy.stop()
    store = world.open()
    async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
        assert said(await upcoming(events)).endswith(", incomplete")
        await world.proxy.start()
        seen = await until(events, lambda text: text.startswith("all "))
        assert seen[-1] == "all a=1"
        assert not any("last state" in each for each in seen)
    await store.close()


async def test_another_life_that_ended_before_it_reached_the_store_takes_nothing_away(world: World) -> None:
    await world.last_life("a", "b")
    world.proxy.stop()
    for _ in range(2):
        store = world.open()
        async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
            assert (await until(events, lambda text: text.startswith("all ")))[-1] == "all a=1 b=1"
        await store.close()


async def test_a_server_restored_from_nothing_wipes_no_agent_that_starts_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind_cache, "CONFIRM_AFTER", 1.0)
    await world.last_life("a", "b", "c")
    for name in "abc":
        await world.direct.delete(ConfigMap, config(name).key)
    store = world.open()
    async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
        seen = await until(events, lambda text: text.startswith("all "))
        assert seen == ["problem list of configmaps", "all a=1 b=1 c=1"]
        await world.direct.put(config("b"))
        seen = await until(events, "solved list of configmaps")
        assert sorted(each for each in seen if each.startswith("deleted")) == ["deleted a", "deleted c"]
    await store.close()
