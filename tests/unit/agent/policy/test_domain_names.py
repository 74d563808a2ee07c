"""Domain names of policies: asked for, kept for a while, and what a silent resolver says is no answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent.policy import domain_names as names
from percale.agent.policy.domain_names import NAMES, RETENTION, DomainResolver, system_resolve

ONE, TWO = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"


class World:
    """A scripted resolver, and the addresses passed on."""

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset({"a.example"})
        self.answers: dict[str, frozenset[bytes] | OSError] = {"a.example": frozenset({ONE})}
        self.asked: list[str] = []
        self.now = 0.0
        self.learned: Mapping[str, frozenset[bytes]] = {}
        self.problems = silent_problems(clock=lambda: 100.0)
        self.names = DomainResolver(
            lambda: self.wanted, self._learn, self.problems, resolve=self.ask, clock=lambda: self.now
        )

    def ask(self, name: str) -> frozenset[bytes]:
        self.asked.append(name)
        answer = self.answers[name]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _learn(self, names: Mapping[str, frozenset[bytes]]) -> None:
        self.learned = names

    async def round(self) -> None:
        for name in sorted(self.wanted):
            await self.names.resolve_once(name)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.names.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world() -> World:
    return World()


async def test_addresses_count_for_a_while_after_the_answer_that_held_them(world: World) -> None:
    await world.round()
    world.answers["a.example"] = frozenset({TWO})
    world.now = RETENTION
    await world.round()
    assert world.learned == {"a.example": {ONE, TWO}}
    world.now = RETENTION + 1
    await world.round()
    assert world.learned == {"a.example": {TWO}}


async def test_a_failing_resolver_removes_nothing_and_is_reported(world: World) -> None:
    await world.round()
    world.answers["a.example"] = OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
    world.now = RETENTION * 2
    await world.round()
    assert world.learned == {"a.example": {ONE}}
    assert "'a.example' cannot be resolved: Temporary failure" in world.problems.current[NAMES].error
    world.answers["a.example"] = frozenset({ONE})
    await world.round()
    assert NAMES not in world.problems.current


async def test_one_name_that_fails_does_not_keep_the_others(world: World) -> None:
    world.wanted = frozenset({"a.example", "b.example", "c.example"})
    world.answers |= {"b.example": OSError(socket.EAI_AGAIN, "no"), "c.example": OSError(socket.EAI_AGAIN, "no")}
    await world.round()
    assert world.learned == {"a.example": {ONE}}
    assert "'b.example' (and 1 more) cannot" in world.problems.current[NAMES].error


async def test_names_of_a_new_policy_are_resolved_at_once_and_old_ones_dropped(world: World) -> None:
    async with running(world):
        await eventually(lambda: world.learned == {"a.example": {ONE}})
        world.answers["b.example"] = frozenset({TWO})
        world.wanted = frozenset({"b.example"})
        world.names.refresh()
        await eventually(lambda: world.learned == {"b.example": {TWO}})
        world.names.refresh()  # nothing new: nobody is asked again
        world.answers["c.example"] = frozenset({ONE})
        world.wanted |= {"c.example"}
        world.names.refresh()
        await eventually(lambda: "c.example" in world.learned)
    assert world.asked == ["a.example", "b.example", "c.example"]


async def test_a_resolver_that_hangs_at_one_name_does_not_keep_another(world: World) -> None:
    goes_on = threading.Event()

    def ask(name: str) -> frozenset[bytes]:
        if name == "a.example":
            goes_on.wait(10)
        return frozenset({ONE})

    world.names = DomainResolver(lambda: world.wanted, world._learn, world.problems, resolve=ask)
    async with running(world):
        world.wanted |= {"b.example"}
        world.names.refresh()
        await eventually(lambda: world.learned == {"b.example": {ONE}})
        goes_on.set()
        await eventually(lambda: world.learned == {"a.example": {ONE}, "b.example": {ONE}})


async def test_a_failed_lookup_is_retried_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RETRY_INTERVAL", 0.0)
    world.answers["a.example"] = OSError(socket.EAI_AGAIN, "no")
    async with running(world):
        await eventually(lambda: NAMES in world.problems.current)
        world.answers["a.example"] = frozenset({ONE})
        await eventually(lambda: world.learned == {"a.example": {ONE}} and NAMES not in world.problems.current)


async def test_who_waits_for_all_names_waits_for_each_once_and_not_for_ever(world: World) -> None:
    world.wanted = frozenset({"a.example", "b.example"})
    world.answers["b.example"] = OSError(socket.EAI_AGAIN, "no")
    async with running(world):
        await world.names.wait_resolved()
        assert world.learned == {"a.example": {ONE}}
        assert sorted(world.asked) == ["a.example", "b.example"]
    world.wanted |= {"c.example"}
    await world.names.wait_resolved(seconds=0.01)
    assert "c.example" not in world.asked


async def test_the_end_does_not_wait_for_a_resolver_that_hangs(world: World) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def ask(_: str) -> frozenset[bytes]:
        hangs.set()
        goes_on.wait(10)
        return frozenset()

    names = DomainResolver(lambda: world.wanted, world._learn, world.problems, resolve=ask)
    task = asyncio.create_task(names.run())
    await eventually(hangs.is_set)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    goes_on.set()


def test_the_nodes_own_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system_resolve("localhost") & {b"\x7f\x00\x00\x01", bytes(15) + b"\x01"}

    def nobody(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert system_resolve("a" * 64 + ".example") == frozenset()  # longer than any label, and a policy may say it
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert system_resolve("nobody.example") == frozenset()
