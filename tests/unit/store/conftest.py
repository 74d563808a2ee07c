"""The directory, the store and the words that tests of the files store share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from percale.model.configmap import ConfigMap
from percale.model.kinds import KINDS
from percale.store.files.directory import Directory
from percale.store.files.file_index import FileIndex
from percale.store.files.lease_expiry import BootClock
from percale.store.files.store import FilesStore
from percale.store.protocol import Event, ReadProblem, Snapshot, Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FilesStore]:
    made = FilesStore(root)
    yield made
    await made.close()


def opened(root: Path) -> Directory:
    """Read for the first time."""
    clock = BootClock()
    return Directory(root, FileIndex(KINDS, clock.now), clock)


def text(name: str, value: str = "1") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  x: '{value}'\n"


async def upcoming(events: AsyncIterator[Event]) -> Event:
    async with asyncio.timeout(30):
        return await anext(events)


async def names(store: Store) -> list[str]:
    return [obj.metadata.name for obj in await store.list(ConfigMap)]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
async def events(root: Path, store: FilesStore) -> AsyncIterator[AsyncIterator[Event]]:
    """Of a store whose directory holds `a.yaml` with the object `a`."""
    (root / "a.yaml").write_text(text("a"))
    watch = store.watch(ConfigMap)
    assert len((await upcoming(watch)).of(ConfigMap)) == 1  # type: ignore[union-attr]
    yield watch


def summary(event: Event) -> tuple[str, str]:
    """What happened, in short."""
    if isinstance(event, Snapshot):
        return "Snapshot", ""
    if isinstance(event, ReadProblem):
        return "ReadProblem", str(event.error)
    assert isinstance(event.object, ConfigMap)
    return type(event).__name__, f"{event.object.metadata.name}={event.object.data.get('x')}"
