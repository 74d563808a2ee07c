"""What the files store writes: whole or not at all, and beside others who write."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.unit.store.conftest import names, summary, text, tree, upcoming
from tests.waiting import eventually

from percale.errors import BadManifest, Conflict, StoreUnavailable
from percale.kernel import syscalls
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.files.store import FilesStore
from percale.store.protocol import Deleted, Event, ReadProblem, Upserted

MS_REMOUNT = 0x20


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


@pytest.fixture
def tiny(root: Path) -> Iterator[Path]:
    """A file system of its own, of two pages."""
    syscalls.mount("tmpfs", str(root), "tmpfs", options=f"size={2 * resource.getpagesize()}")
    yield root
    syscalls.umount(str(root))


async def test_a_full_disk_is_one_error_and_leaves_nothing(tiny: Path, store: FilesStore) -> None:
    written = await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "1"}))
    before = tree(tiny)
    big = ConfigMap(metadata=written.metadata, data={"x": "2" * 100_000})
    with pytest.raises(StoreUnavailable, match=r"a.json: cannot be written: No space left on device; free some space"):
        await store.put(big)
    assert await store.get(ConfigMap, ObjectKey("default", "a")) == written
    assert tree(tiny) == before


async def test_a_read_only_directory_is_read_and_not_written(root: Path) -> None:
    (root / "a.yaml").write_text(text("a"))
    syscalls.mount(str(root), str(root), flags=syscalls.MS_BIND)
    syscalls.mount("none", str(root), flags=syscalls.MS_BIND | syscalls.MS_RDONLY | MS_REMOUNT)
    store = FilesStore(root)
    try:
        assert await names(store) == ["a"]
        with pytest.raises(StoreUnavailable, match="Read-only file system; make the directory writable"):
            await store.put(ConfigMap(metadata=ObjectMeta(name="b")))
        assert await names(store) == ["a"]
    finally:
        await store.close()
        syscalls.umount(str(root))


async def test_an_invalid_user_file_is_not_written(root: Path, store: FilesStore, events: AsyncIterator[Event]) -> None:
    (root / "a.yaml").write_text("kind: [")
    with pytest.raises(BadManifest, match=r"a\.yaml:1"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a"), data={"x": "2"}))
    assert (root / "a.yaml").read_text() == "kind: ["


async def test_an_own_file_that_was_lost_in_a_power_cut_is_written_again(root: Path, store: FilesStore) -> None:
    for rest in ("", '{"apiVersion": "v1", "ki'):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a"), data={"x": "1"}))
        (root / "ConfigMap/default/a.json").write_text(rest)
        written = await store.put(ConfigMap(metadata=ObjectMeta(name="a"), data={"x": "2"}))
        assert await store.list(ConfigMap) == [written]


async def names_of(root: Path) -> list[str]:
    fresh = FilesStore(root)
    try:
        return await names(fresh)
    finally:
        await fresh.close()


async def test_a_writer_that_holds_the_lock_too_long(
    root: Path, store: FilesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percale.store.files.writes._LOCK_TIMEOUT", 0.05)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a")))
    assert await names(store) == []
    os.close(descriptor)
    await store.put(ConfigMap(metadata=ObjectMeta(name="a")))


async def test_a_cancelled_put_is_published_if_it_was_done(
    root: Path, store: FilesStore, events: AsyncIterator[Event]
) -> None:
    writing = asyncio.create_task(store.put(ConfigMap(metadata=ObjectMeta(name="b"), data={"x": "1"})))
    while not (root / "ConfigMap/default/b.json").exists():
        await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait((writing,))
    assert summary(await upcoming(events)) == ("Upserted", "b=1")


async def test_a_put_compares_with_what_was_just_edited(root: Path, store: FilesStore) -> None:
    (root / "a.yaml").write_text(text("a"))
    known = await store.get(ConfigMap, ObjectKey("default", "a"))
    assert known is not None
    (root / "a.yaml").write_text(text("a", "2"))  # the store has not noticed yet
    with pytest.raises(Conflict):
        await store.put(ConfigMap(metadata=known.metadata, data={}), expect=known.metadata.resourceVersion)
    (root / "b.yaml").write_text(text("b"))
    with pytest.raises(Conflict):
        await store.put(ConfigMap(metadata=ObjectMeta(name="b")), expect="")


async def test_many_processes_put_at_once(root: Path) -> None:
    """Each adds itself to one object, by compare-and-put, until all are in."""
    stores = [FilesStore(root) for _ in range(8)]

    async def join(number: int) -> None:
        store = stores[number]
        while True:
            known = await store.get(ConfigMap, ObjectKey("default", "a"))
            data = {**(known.data if known else {}), str(number): "in"}
            version = (known.metadata.resourceVersion or "") if known else ""
            try:
                await store.put(ConfigMap(metadata=ObjectMeta(name="a"), data=data), expect=version)
            except Conflict:
                continue
            return

    await asyncio.gather(*(join(number) for number in range(8)))
    found = await stores[0].get(ConfigMap, ObjectKey("default", "a"))
    assert found is not None
    assert len(found.data) == 8
    for store in stores:
        await store.close()


async def test_names_become_files_and_back(root: Path, store: FilesStore) -> None:
    for name in ("10.1.2.0-24&fd00--1-64", "a/b", "..", ".hidden", "x%y", "-", "ü:1", "n" * 253, "n" * 252 + "m"):
        await store.put(ConfigMap(metadata=ObjectMeta(name=name, namespace=name)))
    assert len(await names_of(root)) == 9
    assert (root / "ConfigMap/10.1.2.0-24&fd00--1-64/10.1.2.0-24&fd00--1-64.json").exists()


async def test_a_file_of_ours_with_other_objects_is_left_alone(root: Path, store: FilesStore) -> None:
    (root / "ConfigMap/default").mkdir(parents=True)
    (root / "ConfigMap/default/a.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}})
    )
    before = tree(root)["ConfigMap/default/a.json"]
    with pytest.raises(StoreUnavailable, match="other objects are in this file"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a")))
    assert tree(root)["ConfigMap/default/a.json"] == before
    watch = store.watch(ConfigMap)
    problem = await upcoming(watch)
    assert isinstance(problem, ReadProblem)
    assert summary(await upcoming(watch)) == ("Snapshot", "")
    assert problem.source == f"{root}/ConfigMap/default/a.json"
    assert "other objects are in this file; move them to another file" in str(problem.error)


@pytest.mark.parametrize("target", ["secret", "new"])
async def test_an_own_file_is_not_written_through_a_link(
    root: Path, store: FilesStore, tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret").write_text("another's")
    own = root / "ConfigMap/default/a.json"
    own.parent.mkdir(parents=True)
    own.symlink_to(tmp_path / target)
    await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
    assert await names(store) == ["a"]
    assert not own.is_symlink()
    assert (tmp_path / "secret").read_text() == "another's"
    assert not (tmp_path / "new").exists()


async def test_an_own_file_is_not_written_or_removed_through_a_linked_directory(
    root: Path, store: FilesStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "ConfigMap").mkdir()
    (root / "ConfigMap/default").symlink_to(outside)
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
    assert list(outside.iterdir()) == []
    (outside / "b.json").write_text(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}))
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await store.delete(ConfigMap, ObjectKey("default", "b"))
    assert (outside / "b.json").exists()


async def test_only_those_who_may_write_can_lock_the_store(root: Path, store: FilesStore) -> None:
    lock = root / ".lock"
    lock.touch(0o644)
    await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
    assert not lock.stat().st_mode & 0o007


async def test_the_lock_is_not_made_through_a_link(root: Path, store: FilesStore, tmp_path: Path) -> None:
    (root / ".lock").symlink_to(tmp_path / "nologin")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
    assert not (tmp_path / "nologin").exists()
