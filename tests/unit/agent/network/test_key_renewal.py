"""Another WireGuard key when somebody removes the one on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from tests.silent import silent_log
from tests.waiting import eventually

from percale.agent.informer import STORE
from percale.agent.network import key_renewal
from percale.agent.network.key_renewal import KEY, KeyRenewal
from percale.agent.problems import Problems
from percale.backend.wireguard.backend import WireguardBackend
from percale.backend.wireguard.key_file import FILE
from percale.errors import StoreUnavailable
from percale.model.backend_options import WireguardOptions

LOG = silent_log()


class World:
    def __init__(self, directory: Path) -> None:
        self.key = directory / FILE
        self.backend = WireguardBackend(WireguardOptions())
        self.backend.load(directory)
        self.problems = Problems(LOG)
        self.published: list[str] = []

    async def on_renewed(self) -> None:
        self.published.append(self.key.read_text())


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(key_renewal, "INTERVAL", 0.01)
    (tmp_path / "kept").mkdir()
    made = World(tmp_path / "kept")
    renewal = KeyRenewal(made.backend.key_renewal, made.on_renewed, log=LOG, problems=made.problems)
    task = asyncio.create_task(renewal.run())
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_removed_key_is_replaced_once(world: World) -> None:
    before = world.key.read_text()
    world.key.unlink()
    assert await eventually(lambda: len(world.published) == 1)
    assert world.published != [before]
    await asyncio.sleep(0.05)
    assert len(world.published) == 1


async def test_not_while_nobody_would_learn_of_it(world: World) -> None:
    world.problems.raise_(STORE, StoreUnavailable("away"))
    world.key.unlink()
    await asyncio.sleep(0.05)
    assert world.published == []
    assert not world.key.exists()
    world.problems.clear(STORE)
    assert await eventually(lambda: len(world.published) == 1)


async def test_a_directory_that_cannot_be_written_is_a_problem_and_the_key_stays(world: World) -> None:
    away = world.key.parent.with_name("away")
    world.key.parent.rename(away)
    assert await eventually(lambda: KEY in world.problems.current)
    assert "cannot be written" in str(world.problems.current[KEY])
    assert world.published == []
    away.rename(world.key.parent)
    assert await eventually(lambda: KEY not in world.problems.current)
    assert world.published == []
