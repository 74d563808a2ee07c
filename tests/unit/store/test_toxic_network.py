"""Whatever the network between an agent and its store does: nothing is lost, nothing is told twice, and what stays never goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.toxic_proxy import ToxicProxy
from tests.unit.store.conftest import upcoming
from tests.unit.store.server_world import World, config, server_world

from percale.model.configmap import ConfigMap
from percale.store.etcd import watch as etcd_watch
from percale.store.kubernetes import api_client, list_watch
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted

TOXINS = ("cut", "delay", "truncate", "refuse", "410", "429", "500", "half a line", "another's answer")
STEP = 20.0
"""Seconds of the simulated clock."""


def answer(status: str, body: bytes = b"{}", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWERS = {
    "410": answer("410 Gone", b'{"kind":"Status","reason":"Expired","code":410}'),
    "429": answer("429 Too Many Requests", headers="Retry-After: 1\r\n"),
    "500": answer("500 Internal Server Error", b"oops"),
    "half a line": answer("200 OK", b'{"type":"ADDED","object":{"meta')[:-1],
    "another's answer": answer("200 OK", b"<html>"),
}


async def poison(proxy: ToxicProxy, toxin: str, chance: random.Random) -> None:
    match toxin:
        case "delay":
            proxy.delay = chance.uniform(0.0, 0.05)
        case "truncate":
            proxy.bytes_left = chance.randint(1, 600)
        case "refuse":
            proxy.stop()
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            await proxy.start()
        case "cut":
            proxy.cut()
        case _:
            proxy.instead = ANSWERS[toxin]
            proxy.cut()


class Reader:
    """What a component makes of the events."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.told: list[str] = []

    def take(self, event: Event) -> None:
        match event:
            case Snapshot():
                assert not self.known, "one Snapshot"
                self.known = {each.metadata.name: each.data["x"] for each in event.of(ConfigMap)}
            case Upserted(ConfigMap() as obj):
                assert self.known.get(obj.metadata.name) != obj.data["x"], "told twice"
                self.known[obj.metadata.name] = obj.data["x"]
                self.told.append(obj.metadata.name)
            case Deleted(ConfigMap() as obj):
                del self.known[obj.metadata.name]
                self.told.append(obj.metadata.name)
            case ReadProblem(source, None):
                self.problems.pop(source, None)
            case ReadProblem(source, error):
                self.problems[source] = str(error)

    async def follow(self, events: AsyncIterator[Event], last: str) -> None:
        while last not in self.known:
            self.take(await upcoming(events))


@pytest.fixture(params=["etcd", "kubernetes"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, loopback: None) -> AsyncIterator[World]:
    port = request.getfixturevalue("etcd").port if request.param == "etcd" else None
    prefix = "".join(each if each.isalnum() else "-" for each in request.node.name)
    async with server_world(tmp_path, port, prefix) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (etcd_watch, list_watch):
        monkeypatch.setattr(module, "_FIRST_RETRY", 0.01)
        monkeypatch.setattr(module, "_LONGEST_RETRY", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("toxin", [*TOXINS, *range(3)])
async def test_nothing_is_lost(world: World, toxin: str | int) -> None:
    """One toxin again and again; by number, all of them in some order."""
    chance = random.Random(str(toxin))
    reader = Reader()
    for name in ("kept", "changed", "gone"):
        await world.direct.put(config(name))
    store = world.open()
    async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        reader.take(await upcoming(events))
        for number in range(8):
            await poison(world.proxy, toxin if isinstance(toxin, str) else chance.choice(TOXINS), chance)
            await world.direct.put(config("changed", str(number)))
            await world.direct.put(config(f"new-{number}"))
            if number == 3:
                await world.direct.delete(ConfigMap, config("gone").key)
            if number % 2:
                await reader.follow(events, f"new-{number}")
        world.proxy.delay, world.proxy.bytes_left, world.proxy.instead = 0.0, None, None
        await world.direct.put(config("last"))
        await reader.follow(events, "last")
        assert "kept" not in reader.told
        assert reader.known == {each.metadata.name: each.data["x"] for each in await world.direct.list(ConfigMap)}
    await store.close()


async def test_an_hour_without_the_server_loses_nothing_and_is_one_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that jumps: the pauses between attempts are as they are."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    monkeypatch.setattr(api_client, "_SILENCE", 10_000.0)
    reader = Reader()
    names = [f"kept-{number}" for number in range(5)]
    for name in (*names, "changed", "gone"):
        await world.direct.put(config(name))
    store = world.open()
    async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        reader.take(await upcoming(events))
        world.proxy.stop()
        upcoming_event = asyncio.ensure_future(anext(events))
        for step in range(int(3600 / STEP)):
            passed += STEP
            await asyncio.sleep(0.005)
            while upcoming_event.done():
                reader.take(await upcoming_event)
                upcoming_event = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)
            if step % 10 == 0:
                await world.direct.put(config("changed", str(step)))
        assert len(reader.problems) == 1
        assert not reader.told
        await world.direct.delete(ConfigMap, config("gone").key)
        await world.direct.put(config("new"))
        await world.proxy.start()
        passed += STEP
        while set(reader.told) != {"changed", "gone", "new"} or reader.problems:
            passed += 1.0
            async with asyncio.timeout(60):
                reader.take(await upcoming_event)
            upcoming_event = asyncio.ensure_future(anext(events))
        upcoming_event.cancel()
        await asyncio.gather(upcoming_event, return_exceptions=True)
        assert len(reader.told) == 3
        assert reader.known == {each.metadata.name: each.data["x"] for each in await world.direct.list(ConfigMap)}
    await store.close()
