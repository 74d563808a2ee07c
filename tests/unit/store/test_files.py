"""The files store and the people who edit its directory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from percale.errors import BadManifest, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store import directory
from percale.store.files import FilesStore
from percale.store.protocol import Deleted, Event, Snapshot, Trouble, Upserted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FilesStore]:
    made = FilesStore(root)
    yield made
    await made.close()


def text(name: str, value: str = "1") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  x: '{value}'\n"


async def upcoming(events: AsyncIterator[Event]) -> Event:
    async with asyncio.timeout(5):
        return await anext(events)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def names(store: FilesStore) -> list[str]:
    return [obj.metadata.name for obj in await store.list(ConfigMap)]


async def test_several_documents_and_lists(root: Path, store: FilesStore) -> None:
    (root / "many.yaml").write_text(text("a") + "---\n" + text("b"))
    (root / "list.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}]}'
    )
    assert await names(store) == ["a", "b", "c"]


async def test_an_edit_is_an_event_for_what_changed_only(root: Path, store: FilesStore) -> None:
    file = root / "many.yaml"
    file.write_text(text("a") + "---\n" + text("b"))
    events = store.watch(ConfigMap)
    assert isinstance(await upcoming(events), Snapshot)
    file.write_text(text("a") + "---\n" + text("b", "2"))
    event = await upcoming(events)
    assert isinstance(event, Upserted)
    assert event.object.metadata.name == "b"


async def test_a_file_that_turns_bad_keeps_its_last_good_objects(root: Path, store: FilesStore) -> None:
    file = root / "a.yaml"
    file.write_text(text("a"))
    events = store.watch(ConfigMap)
    await upcoming(events)
    file.write_text(text("a").replace("data:", "data"))
    event = await upcoming(events)
    assert isinstance(event, Trouble)
    assert f"{file}:" in str(event.error)
    assert await names(store) == ["a"]
    file.write_text(text("a", "2"))
    assert {type(await upcoming(events)) for _ in range(2)} == {Upserted, Trouble}


async def test_a_file_that_disappears_takes_its_objects_with_it(root: Path, store: FilesStore) -> None:
    file = root / "a.yaml"
    file.write_text(text("a"))
    events = store.watch(ConfigMap)
    await upcoming(events)
    file.unlink()
    assert isinstance(await upcoming(events), Deleted)
    assert await names(store) == []


async def test_a_new_folder_with_files_is_found(root: Path, store: FilesStore) -> None:
    events = store.watch(ConfigMap)
    await upcoming(events)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "a.yaml").write_text(text("a"))
    assert isinstance(await upcoming(events), Upserted)
    (root / "deep").rename(root.parent / "elsewhere")
    assert isinstance(await upcoming(events), Deleted)


async def test_an_object_in_two_files_is_a_trouble_that_names_both(root: Path, store: FilesStore) -> None:
    (root / "a.yaml").write_text(text("a", "first"))
    (root / "b.yaml").write_text(text("a", "second"))
    events = store.watch(ConfigMap)
    assert isinstance(await upcoming(events), Snapshot)
    trouble = await upcoming(events)
    assert isinstance(trouble, Trouble)
    assert str(root / "a.yaml") in str(trouble.error)
    assert str(root / "b.yaml") in str(trouble.error)
    found = await store.get(ConfigMap, ObjectKey("default", "a"))
    assert found is not None
    assert found.data == {"x": "first"}


async def test_put_changes_only_its_document_of_a_persons_file(root: Path, store: FilesStore) -> None:
    file = root / "many.yaml"
    before = "# ours, by hand\n" + text("a") + "---\n# the other\n" + text("b") + "immutable: true  # unknown here\n"
    file.write_text(before)
    found = await store.get(ConfigMap, ObjectKey("default", "b"))
    assert found is not None
    new = ConfigMap(metadata=found.metadata, data={"x": "2"})
    await store.put(new, expect=found.metadata.resourceVersion)
    after = file.read_text()
    assert after.startswith("# ours, by hand\n" + text("a") + "---\n# the other\n")
    assert "immutable: true" in after
    assert await names(store) == ["a", "b"]
    await store.delete(ConfigMap, ObjectKey("default", "a"))
    assert await names(store) == ["b"]
    assert "name: b" in file.read_text()


async def test_two_stores_on_one_directory_see_each_others_writes(root: Path, store: FilesStore) -> None:
    other = FilesStore(root)
    try:
        events = other.watch(ConfigMap)
        await upcoming(events)
        written = await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")), ttl=0.3)
        assert await upcoming(events) == Upserted(written)
        assert await upcoming(events) == Deleted(written)
        await eventually(lambda: not list(root.glob("ConfigMap/*/*.json")))
    finally:
        await other.close()


async def test_a_full_disk_is_one_error_and_leaves_nothing(
    root: Path, store: FilesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "1"}))

    def full(path: Path, _content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory.Path, "write_bytes", full)
    with pytest.raises(StoreUnavailable, match=r"No space left on device; free some space"):
        await store.put(ConfigMap(metadata=written.metadata, data={"x": "2"}))
    assert await store.get(ConfigMap, ObjectKey("default", "a")) == written
    assert [path.name for path in (root / "ConfigMap" / "default").iterdir()] == ["a.json"]


async def test_a_wrong_type_names_file_line_and_field(root: Path, store: FilesStore) -> None:
    ports = "    ports:\n    - containerPort: http\n"
    (root / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: c\n" + ports
    )
    events = store.watch(ConfigMap)
    await upcoming(events)
    trouble = await upcoming(events)
    assert isinstance(trouble, Trouble)
    assert isinstance(trouble.error, BadManifest)
    assert f"{root}/pod.yaml:9: spec.containers[0].ports[0].containerPort: expected" in str(trouble.error)


async def test_a_store_that_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FilesStore(tmp_path / "file")
    with pytest.raises(StoreUnavailable, match="file"):
        await store.list(ConfigMap)
    await store.close()
