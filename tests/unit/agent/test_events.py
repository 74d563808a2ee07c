"""Events of the agent, and their rate limit."""

from __future__ import annotations

import asyncio
import io

import pytest

from percale.agent import events as module
from percale.agent.events import Events, InvolvedObject
from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.errors import StoreUnavailable
from percale.model.event import Event
from percale.model.meta import ObjectKey
from percale.store.memory import MemoryStore

WEB = InvolvedObject("Service", ObjectKey("shop", "web"))
PATIENCE = 30.0


class Said:
    """An agent's events, its store and its clock."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1_800_000_000.0
        self.problems = Problems(LineLog("text", io.StringIO()))
        self.events = Events("n1", self.store, self.problems, clock=lambda: self.now)

    async def are(self, count: int) -> list[Event]:
        async with asyncio.timeout(PATIENCE):
            while len(found := await self.store.list(Event)) < count:
                await asyncio.sleep(0)
        return found


@pytest.fixture
def said() -> Said:
    return Said()


async def test_an_event_names_its_object_the_node_and_what_is_wrong(said: Said) -> None:
    running = asyncio.create_task(said.events.run())
    said.events.warn(WEB, "NotServed", "it would take too much")
    (event,) = await said.are(1)
    running.cancel()
    assert event.metadata.namespace == "shop"
    assert event.involvedObject.key == WEB.key
    assert (event.involvedObject.kind, event.type, event.reason) == ("Service", "Warning", "NotServed")
    assert (event.message, event.source.host, event.count) == ("it would take too much", "n1", 1)
    assert event.firstTimestamp == event.lastTimestamp == "2027-01-15T08:00:00Z"


async def test_the_same_again_is_counted_once_a_minute_at_most(said: Said) -> None:
    running = asyncio.create_task(said.events.run())
    said.events.warn(WEB, "NotServed", "no")
    (first,) = await said.are(1)
    said.now += 10
    said.events.warn(WEB, "NotServed", "no")
    await asyncio.sleep(0.05)
    assert await said.store.list(Event) == [first]
    said.now += 60
    said.events.warn(WEB, "NotServed", "no")
    async with asyncio.timeout(PATIENCE):
        while (await said.store.list(Event))[0].count != 2:
            await asyncio.sleep(0)
    running.cancel()
    (event,) = await said.store.list(Event)
    assert (event.metadata.name, event.firstTimestamp) == (first.metadata.name, first.firstTimestamp)


async def test_a_swarm_of_objects_is_told_by_and_by(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes many objects makes no agent write as many."""
    monkeypatch.setattr(module, "_INTERVAL", 3600.0)
    running = asyncio.create_task(said.events.run())
    for number in range(50):
        said.events.warn(InvolvedObject("Service", ObjectKey("shop", f"web-{number}")), "NotServed", "no")
    await said.are(10)
    await asyncio.sleep(0.05)
    assert len(await said.store.list(Event)) == 10
    running.cancel()


async def test_a_store_that_is_away_ends_nothing(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    running = asyncio.create_task(said.events.run())

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(said.store, "put", away)
        said.events.warn(WEB, "NotServed", "no")
        async with asyncio.timeout(PATIENCE):
            while said.problems.last is None:
                await asyncio.sleep(0)
    said.events.warn(InvolvedObject("Pod", ObjectKey("shop", "a")), "KernelRefused", "no")
    assert (await said.are(1))[0].involvedObject.kind == "Pod"
    running.cancel()
