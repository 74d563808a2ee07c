"""What takes long to read delays nobody else's objects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.store.conftest import names, summary, text, upcoming

from percale.bounded_file import MAX_SIZE
from percale.errors import Conflict, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey
from percale.store.files.regular_file import read_store_file
from percale.store.files.store import FilesStore
from percale.store.protocol import Event, ReadProblem, Snapshot, Store
from percale.store.registry import open_store


def large(name: str, lines: int = 15_000, value: str = "1") -> str:
    """Some ten bytes a line."""
    return text(name, value) + "".join(f"  k{number}: v\n" for number in range(lines))


@pytest.fixture
async def agents(root: Path, tmp_path: Path) -> AsyncIterator[Store]:
    """The store as an agent opens it."""
    made = open_store(f"files:{root}", last_state=tmp_path / "last-state")
    yield made
    await made.close()


@pytest.fixture
def may_be_read(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """One for each file that takes long to read, which waits for it."""
    permits = threading.Semaphore(0)

    def read(name: str, most: int = MAX_SIZE) -> bytes:
        if threading.current_thread().name == "large files":
            permits.acquire()
        return read_store_file(name, most)

    monkeypatch.setattr("percale.store.files.directory.read_store_file", read)
    return permits


async def until(watch: AsyncIterator[Event], last: tuple[str, str]) -> list[tuple[str, str]]:
    """The events up to this one."""
    seen: list[tuple[str, str]] = []
    while not seen or seen[-1] != last:
        seen.append(summary(await upcoming(watch)))
    return seen


async def test_at_the_start_a_large_file_is_a_problem_until_it_is_read(root: Path, agents: Store) -> None:
    (root / "large.yaml").write_text(large("large"))
    (root / "small.yaml").write_text(text("small"))
    watch = agents.watch(ConfigMap)
    problem, snapshot = await upcoming(watch), await upcoming(watch)
    assert isinstance(problem, ReadProblem)
    assert str(problem.error) == f"{root}/large.yaml: is still being read: it is large, or one of many"
    assert not problem.complete
    assert isinstance(snapshot, Snapshot)
    assert [each.metadata.name for each in snapshot.of(ConfigMap)] == ["small"]
    assert {summary(await upcoming(watch)), summary(await upcoming(watch))} == {
        ("Upserted", "large=1"),
        ("ReadProblem", "None"),
    }


async def test_others_are_read_while_a_large_file_is(
    root: Path, agents: Store, may_be_read: threading.Semaphore
) -> None:
    """Its last content counts meanwhile."""
    (root / "large.yaml").write_text(text("large", "0"))
    watch = agents.watch(ConfigMap)
    await upcoming(watch)
    (root / "large.yaml").write_text(large("large"))
    (root / "small.yaml").write_text(text("small"))
    assert await until(watch, ("Upserted", "small=1")) == [("Upserted", "small=1")]
    assert {each.data["x"] for each in await agents.list(ConfigMap)} == {"0", "1"}
    may_be_read.release()
    assert await until(watch, ("Upserted", "large=1")) == [("Upserted", "large=1")]


async def test_others_are_read_while_very_many_files_are(
    root: Path, agents: Store, may_be_read: threading.Semaphore
) -> None:
    watch = agents.watch(ConfigMap)
    await upcoming(watch)
    for directory in ("many", "one"):
        (root / directory).mkdir()
    for number in range(30):
        (root / "many" / f"{number}.yaml").write_text(large(f"many-{number}", 3_000))
    (root / "one" / "a.yaml").write_text(large("one", 3_001))
    while not (isinstance(event := await upcoming(watch), ReadProblem) and event.source.endswith("one/a.yaml")):
        pass
    may_be_read.release(6)  # a file that was seen while it was written is read once more
    seen = await until(watch, ("Upserted", "one=1"))
    assert len([each for each in seen if each[0] == "Upserted"]) <= 6
    may_be_read.release(100)
    while len(await names(agents)) < 31:
        await asyncio.sleep(0.05)


async def test_a_write_is_compared_with_what_another_has_written_behind_a_flood(root: Path, agents: Store) -> None:
    (root / "a.yaml").write_text(large("a", 3_000))
    watch = agents.watch(ConfigMap)
    await upcoming(watch)
    (mine,) = await agents.list(ConfigMap)
    for number in range(40):
        (root / f"{number}.yaml").write_text(large(f"many-{number}", 2_900))
    (root / "a.yaml").write_text(large("a", 3_000, "2"))
    with pytest.raises(Conflict, match="has changed"):
        await agents.put(replace(mine, data={"x": "3"}), expect=mine.metadata.resourceVersion)


async def test_an_agent_does_not_edit_a_large_file(root: Path, agents: Store) -> None:
    (root / "a.yaml").write_text(large("a"))
    while not await names(agents):
        await asyncio.sleep(0.05)
    with pytest.raises(StoreUnavailable, match="ConfigMap default/a cannot be changed in a file of more than 128 KiB"):
        await agents.delete(ConfigMap, ObjectKey("default", "a"))


async def test_a_command_waits_for_all_files(root: Path, store: FilesStore) -> None:
    (root / "a.yaml").write_text(large("a"))
    assert await names(store) == ["a"]
    await store.delete(ConfigMap, ObjectKey("default", "a"))
    assert await names(store) == []
