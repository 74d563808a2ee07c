"""Events of the agent, and their rate limit."""

from __future__ import annotations

import asyncio

import pytest
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent import events as module
from percale.agent.events import Events, InvolvedObject
from percale.errors import NotFound, StoreUnavailable
from percale.model.event import Event
from percale.model.meta import ObjectKey
from percale.store.memory import MemoryStore

WEB = InvolvedObject("Service", ObjectKey("shop", "web"))
PATIENCE = 30.0


class EventWorld:
    """An agent's events, its store and its clock."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1_800_000_000.0
        self.problems = silent_problems()
        self.events = Events("n1", self.store, self.problems, clock=lambda: self.now)

    async def wait_for(self, count: int) -> list[Event]:
        async def found() -> list[Event]:
            events = await self.store.list(Event)
            return events if len(events) >= count else []

        return list(await eventually(found))


@pytest.fixture
def world() -> EventWorld:
    return EventWorld()


async def test_an_event_names_its_object_the_node_and_what_is_wrong(world: EventWorld) -> None:
    running = asyncio.create_task(world.events.run())
    world.events.warn(WEB, "NotServed", "it would take too much")
    (event,) = await world.wait_for(1)
    running.cancel()
    assert event.metadata.namespace == "shop"
    assert event.involvedObject.key == WEB.key
    assert (event.involvedObject.kind, event.type, event.reason) == ("Service", "Warning", "NotServed")
    assert (event.message, event.source.host, event.count) == ("it would take too much", "n1", 1)
    assert event.firstTimestamp == event.lastTimestamp == "2027-01-15T08:00:00Z"


async def test_a_repeated_event_is_counted_once_in_ten_minutes_at_most(world: EventWorld) -> None:
    running = asyncio.create_task(world.events.run())
    world.events.warn(WEB, "NotServed", "no")
    (first,) = await world.wait_for(1)
    world.now += 580
    world.events.warn(WEB, "NotServed", "no")
    await asyncio.sleep(0.05)
    assert await world.store.list(Event) == [first]
    world.now += 30
    world.events.warn(WEB, "NotServed", "no")

    async def twice() -> bool:
        return (await world.store.list(Event))[0].count == 2

    await eventually(twice)
    running.cancel()
    (event,) = await world.store.list(Event)
    assert (event.metadata.name, event.firstTimestamp) == (first.metadata.name, first.firstTimestamp)


async def test_events_of_many_objects_are_rate_limited(world: EventWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes many objects makes no agent write as many."""
    monkeypatch.setattr(module, "_INTERVAL", 3600.0)
    running = asyncio.create_task(world.events.run())
    for number in range(50):
        world.events.warn(InvolvedObject("Service", ObjectKey("shop", f"web-{number}")), "NotServed", "no")
    await world.wait_for(10)
    await asyncio.sleep(0.05)
    assert len(await world.store.list(Event)) == 10
    running.cancel()


async def test_events_wait_for_a_store_that_is_away(world: EventWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.01)
    running = asyncio.create_task(world.events.run())

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "put", away)
        world.events.warn(WEB, "NotServed", "no")
        await eventually(lambda: world.problems.last is not None)
        world.events.warn(InvolvedObject("Pod", ObjectKey("shop", "a")), "KernelRefused", "no")
        await asyncio.sleep(0.05)
    found = await world.wait_for(2)
    assert {(each.involvedObject.kind, each.count) for each in found} == {("Service", 1), ("Pod", 1)}
    running.cancel()


async def test_an_event_that_the_store_rejects_is_dropped(world: EventWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rejecting(*_: object, **__: object) -> None:
        raise NotFound("namespace shop not found")

    running = asyncio.create_task(world.events.run())
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "put", rejecting)
        world.events.warn(WEB, "NotServed", "no")
        await eventually(lambda: world.problems.last is not None)
    world.events.warn_node("SubnetFull", "all addresses are used")
    (event,) = await world.wait_for(1)
    assert (event.involvedObject.kind, event.involvedObject.name) == ("Node", "n1")
    assert event.metadata.namespace == "default"
    running.cancel()


async def test_many_events_of_one_namespace_hold_up_no_others(
    world: EventWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And there is an end to what waits."""
    for number in range(500):
        world.events.warn(InvolvedObject("Service", ObjectKey("evil", f"s{number}")), "NotServed", "no")
    world.events.warn(WEB, "NotServed", "no")
    running = asyncio.create_task(world.events.run())

    async def told() -> bool:
        return any(each.involvedObject.key == WEB.key for each in await world.store.list(Event))

    await eventually(told)
    running.cancel()
    monkeypatch.setattr(module, "_BURST", 1000)
    running = asyncio.create_task(world.events.run())
    await world.wait_for(101)
    await asyncio.sleep(0.05)
    running.cancel()
    assert len(await world.store.list(Event)) == 101
