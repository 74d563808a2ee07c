"""The store is followed for ever, and what is wrong with it is said once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from percale.agent import watch
from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.agent.watch import follow, retry_until_available
from percale.errors import BadManifest, StoreUnavailable
from percale.model.subnet_lease import SubnetLease
from percale.store.protocol import Event, ReadProblem, Snapshot

AWAY = StoreUnavailable("no such directory", where="/objects")
BAD = BadManifest("not YAML", where="bad.yaml:3")


class Scripted:
    """A store whose watches follow scripts; the last one stays open."""

    def __init__(self, *scripts: list[Event | Exception]) -> None:
        self._scripts = list(scripts)
        self.used_up = asyncio.Event()

    async def watch(self, *_kinds: object) -> AsyncGenerator[Event, None]:
        for step in self._scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step
        if not self._scripts:
            self.used_up.set()
            await asyncio.Event().wait()


async def followed(*scripts: list[Event | Exception]) -> tuple[list[Event], Problems, str]:
    stream, seen = io.StringIO(), list[Event]()
    problems = Problems(LineLog("text", stream), clock=lambda: 100.0)
    store = Scripted(*scripts)

    async def see(event: Event) -> None:
        seen.append(event)

    task = asyncio.create_task(follow(store, (SubnetLease,), see, problems))  # type: ignore[arg-type]
    await asyncio.wait({task, asyncio.create_task(store.used_up.wait())}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return seen, problems, stream.getvalue()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FIRST_RETRY", 0.0)


async def test_an_unreachable_store_is_retried_and_reported_once() -> None:
    seen, problems, log = await followed([Snapshot(())], [AWAY], [AWAY], [Snapshot(())])
    assert seen == [Snapshot(()), Snapshot(())]
    assert not problems.current
    assert (log.count("warn  problem "), log.count("problem cleared")) == (1, 1)
    assert problems.last is not None and problems.last.error == "/objects: no such directory"


async def test_an_invalid_file_is_a_problem_of_its_own_until_it_is_valid_again() -> None:
    bad, good = ReadProblem("bad.yaml", BAD), ReadProblem("bad.yaml", None)
    _, problems, _ = await followed([Snapshot(()), bad, bad])
    assert {source: problem.error for source, problem in problems.current.items()} == {
        "store bad.yaml": "bad.yaml:3: not YAML"
    }
    assert (await followed([Snapshot(()), bad, good]))[1].current == {}


async def test_an_attempt_is_retried_until_the_store_is_available() -> None:
    outcomes: list[Exception | int] = [AWAY, AWAY, 7]

    async def attempt() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    problems = Problems(LineLog("text", io.StringIO()))
    assert await retry_until_available(attempt, problems) == 7
    assert problems.last is not None and not problems.current
