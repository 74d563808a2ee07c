"""The files store and the people who edit its directory."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.store.conftest import names, summary, text, tree, upcoming
from tests.waiting import eventually

from percale.errors import BadConfig, BadManifest, Conflict, StoreUnavailable
from percale.kernel import syscalls
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.pod import Pod
from percale.store.files.regular_file import MAX_SIZE
from percale.store.files.store import FilesStore
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted
from percale.store.registry import open_store

MS_REMOUNT = 0x20


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


async def test_an_invalid_file_keeps_its_last_valid_objects(root: Path, store: FilesStore) -> None:
    file = root / "a.yaml"
    file.write_text(text("a"))
    events = store.watch(ConfigMap)
    await upcoming(events)
    file.write_text(text("a").replace("data:", "data"))
    event = await upcoming(events)
    assert isinstance(event, ReadProblem)
    assert f"{file}:" in str(event.error)
    assert await names(store) == ["a"]
    file.write_text(text("a", "2"))
    assert {type(await upcoming(events)) for _ in range(2)} == {Upserted, ReadProblem}


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


async def test_an_object_in_two_files_is_a_problem_that_names_both(root: Path, store: FilesStore) -> None:
    (root / "a.yaml").write_text(text("a", "first"))
    (root / "b.yaml").write_text(text("a", "second"))
    events = store.watch(ConfigMap)
    problem = await upcoming(events)
    assert isinstance(problem, ReadProblem), "before the Snapshot that lacks it"
    assert isinstance(await upcoming(events), Snapshot)
    assert str(root / "a.yaml") in str(problem.error)
    assert str(root / "b.yaml") in str(problem.error)
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


async def test_a_wrong_type_names_file_line_and_field(root: Path, store: FilesStore) -> None:
    ports = "    ports:\n    - containerPort: http\n"
    (root / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: c\n" + ports
    )
    events = store.watch(ConfigMap)
    problem = await upcoming(events)
    assert isinstance(problem, ReadProblem)
    assert isinstance(problem.error, BadManifest)
    assert f"{root}/pod.yaml:9: spec.containers[0].ports[0].containerPort: expected" in str(problem.error)


async def test_a_store_that_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FilesStore(tmp_path / "file")
    with pytest.raises(StoreUnavailable, match="file"):
        await store.list(ConfigMap)
    await store.close()


async def test_a_half_written_file_is_not_read(root: Path, events: AsyncIterator[Event]) -> None:
    with (root / "a.yaml").open("w") as file:
        file.write(text("a", "2")[:30])
        file.flush()
        (root / "b.yaml").write_text(text("b"))  # read after the half of `a`, if that were read
        assert summary(await upcoming(events)) == ("Upserted", "b=1")
        file.write(text("a", "2")[30:])
    assert summary(await upcoming(events)) == ("Upserted", "a=2")


async def test_editors_that_rename(root: Path, events: AsyncIterator[Event]) -> None:
    (root / ".a.yaml.swp").write_text("no manifest: [")
    (root / "a.yaml").rename(root / "a.yaml~")
    (root / "4913").write_text("")
    (root / "a.yaml").write_text(text("a", "2"))
    assert summary(await upcoming(events)) in (("Deleted", "a=1"), ("Upserted", "a=2"))
    (root / "new").write_text(text("a", "3"))
    (root / "new").rename(root / "a.yaml")
    while summary(event := await upcoming(events)) != ("Upserted", "a=3"):
        assert not isinstance(event, ReadProblem)


async def test_one_problem_until_it_is_solved(root: Path, store: FilesStore, events: AsyncIterator[Event]) -> None:
    for _ in range(3):
        (root / "a.yaml").write_text("kind: [")
        await store.list(ConfigMap)
    assert summary(await upcoming(events))[0] == "ReadProblem"
    late = store.watch(ConfigMap)
    assert summary(await upcoming(late))[0] == "ReadProblem"
    assert summary(await upcoming(late)) == ("Snapshot", "")
    (root / "a.yaml").write_text(text("a"))
    assert await upcoming(events) == await upcoming(late) == ReadProblem(f"{root}/a.yaml", None)


async def test_deleting_an_invalid_file_removes_its_objects_and_its_problem(
    root: Path, events: AsyncIterator[Event]
) -> None:
    (root / "a.yaml").write_text("{")
    assert summary(await upcoming(events))[0] == "ReadProblem"
    (root / "a.yaml").unlink()
    assert summary(await upcoming(events)) == ("Deleted", "a=1")
    assert await upcoming(events) == ReadProblem(f"{root}/a.yaml", None)


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


async def test_the_second_of_two_files_counts_when_the_first_goes(root: Path, events: AsyncIterator[Event]) -> None:
    (root / "0.yaml").write_text(text("a", "0"))
    assert summary(await upcoming(events)) == ("Upserted", "a=0")
    assert summary(await upcoming(events)) == (
        "ReadProblem",
        f"{root}/a.yaml:1: ConfigMap default/a is in {root}/0.yaml:1 too; remove one of them; until then the other one counts",
    )
    (root / "0.yaml").unlink()
    assert summary(await upcoming(events)) == ("Upserted", "a=1")
    assert await upcoming(events) == ReadProblem(f"{root}/a.yaml", None)


async def test_deep_folders_and_their_moves(root: Path, events: AsyncIterator[Event]) -> None:
    outside = root.parent / "outside"
    (outside / "x" / "y").mkdir(parents=True)
    (outside / "x" / "y" / "b.yaml").write_text(text("b"))
    (outside / "x").rename(root / "x")
    assert summary(await upcoming(events)) == ("Upserted", "b=1")
    (root / "x").rename(root / "z")
    (root / "z" / "y" / "b.yaml").write_text(text("b", "2"))
    while summary(await upcoming(events)) != ("Upserted", "b=2"):
        pass
    (root / "z" / "y").rename(outside / "y")
    assert summary(await upcoming(events)) == ("Deleted", "b=2")
    (outside / "y" / "b.yaml").write_text(text("b", "3"))
    (root / "a.yaml").write_text(text("a", "2"))
    assert summary(await upcoming(events)) == ("Upserted", "a=2")


async def names_of(root: Path) -> list[str]:
    fresh = FilesStore(root)
    try:
        return await names(fresh)
    finally:
        await fresh.close()


async def test_files_in_folders_that_were_just_made_are_all_found(root: Path, events: AsyncIterator[Event]) -> None:
    wanted = set()
    for number in range(200):
        folder = root / f"f{number % 20}" / f"g{number}"
        folder.mkdir(parents=True)
        (folder / "c.yaml").write_text(text(f"c{number}"))
        wanted.add(f"c{number}=1")
        if number % 50 == 0:
            await asyncio.sleep(0)
    while wanted:
        kind, what = summary(await upcoming(events))
        assert kind == "Upserted"
        wanted.discard(what)


async def test_links(root: Path, events: AsyncIterator[Event]) -> None:
    (root.parent / "elsewhere.yaml").write_text(text("b"))
    (root / "b.yaml").symlink_to(root.parent / "elsewhere.yaml")
    assert summary(await upcoming(events)) == ("Upserted", "b=1")
    (root / "b.yaml").unlink()
    assert summary(await upcoming(events)) == ("Deleted", "b=1")
    os.link(root.parent / "elsewhere.yaml", root / "hard.yaml")
    assert summary(await upcoming(events)) == ("Upserted", "b=1")


async def test_a_mounted_config_map(root: Path, store: FilesStore, events: AsyncIterator[Event]) -> None:
    """The kubelet's way: files are links through `..data`, which it renames."""
    for version in ("1", "2"):
        (root / f"..{version}").mkdir()
        (root / f"..{version}" / "b.yaml").write_text(text("b", version))
        (root / "..tmp").symlink_to(f"..{version}")
        (root / "..tmp").rename(root / "..data")
        if version == "1":
            (root / "b.yaml").symlink_to("..data/b.yaml")
        assert summary(await upcoming(events)) == ("Upserted", f"b={version}")
    written = await store.put(ConfigMap(metadata=ObjectMeta(name="b"), data={"x": "3"}))
    assert (root / "b.yaml").is_symlink()
    assert await store.get(ConfigMap, written.key) == written


async def test_hidden_and_other_files_are_none_of_ours(root: Path, events: AsyncIterator[Event]) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "b.yaml").write_text(text("b"))
    (root / ".b.yaml").write_text(text("b"))
    (root / "b.txt").write_text(text("b"))
    (root / "c.yml").write_text(text("c"))
    assert summary(await upcoming(events)) == ("Upserted", "c=1")


async def test_more_changes_than_the_kernel_keeps(root: Path, store: FilesStore, events: AsyncIterator[Event]) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (root / "gone.yaml").write_text(text("gone"))
    assert summary(await upcoming(events)) == ("Upserted", "gone=1")
    for _ in range(limit // 2 + 100):  # two events each, no two of the same in a row
        (root / "x.yaml").touch()
        (root / "x.yaml").unlink()
    (root / "gone.yaml").unlink()
    (root / "new").mkdir()
    (root / "new" / "b.yaml").write_text(text("b"))
    (root / "a.yaml").write_text(text("a", "2"))
    assert await names(store) == ["a", "b"]
    assert {summary(await upcoming(events)) for _ in range(3)} == {
        ("Deleted", "gone=1"),
        ("Upserted", "b=1"),
        ("Upserted", "a=2"),
    }
    (root / "new" / "b.yaml").write_text(text("b", "2"))
    assert summary(await upcoming(events)) == ("Upserted", "b=2")


async def test_a_directory_that_goes_away_is_not_taken_for_an_empty_one(
    root: Path, store: FilesStore, events: AsyncIterator[Event]
) -> None:
    root.rename(root.parent / "away")
    with pytest.raises(StoreUnavailable, match="the directory is gone; make it again"):
        await upcoming(events)
    with pytest.raises(StoreUnavailable):
        await store.list(ConfigMap)
    (root.parent / "away").rename(root)
    assert await names(store) == ["a"]
    again = store.watch(ConfigMap)
    await upcoming(again)
    (root / "b.yaml").write_text(text("b"))
    assert summary(await upcoming(again)) == ("Upserted", "b=1")


async def test_a_writer_that_holds_the_lock_too_long(
    root: Path, store: FilesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percale.store.files.atomic_write._LOCK_TIMEOUT", 0.05)
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


async def test_a_kind_that_is_none_of_the_store(root: Path) -> None:
    store = FilesStore(root, {"ConfigMap": ConfigMap})
    with pytest.raises(TypeError, match="Pod is none of this store's kinds"):
        await store.list(Pod)
    await store.close()


async def test_an_address_means_a_store(root: Path) -> None:
    store = open_store(f"files:{root}")
    assert await store.list(ConfigMap) == []
    await store.close()
    away = open_store(f"files:{root}/away")
    with pytest.raises(StoreUnavailable, match="No such file or directory; make it"):
        await away.list(ConfigMap)
    assert not (root / "away").exists()
    await away.close()
    with pytest.raises(BadConfig, match='no store "etcd:x"; write files:/DIRECTORY'):
        open_store("etcd:x")


async def test_another_directory_in_the_place_of_the_old_one(root: Path, store: FilesStore) -> None:
    assert await names(store) == []
    root.rmdir()
    root.mkdir()
    (root / "a.yaml").write_text(text("a"))
    with pytest.raises(StoreUnavailable, match="the directory is gone"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="b")))
    assert await names(store) == ["a"]


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _huge(file: Path) -> None:
    file.touch()
    os.truncate(file, MAX_SIZE + 1)


def _socket(file: Path) -> None:
    made = file.parent / "made"  # under a short name
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(made))
    made.rename(file)


@pytest.mark.parametrize("put", [_fifo, _device, _huge, _socket])
async def test_what_is_no_file_to_read_is_a_problem_of_its_own(
    root: Path, store: FilesStore, put: Callable[[Path], None]
) -> None:
    """It neither blocks who reads the others nor fills its memory."""
    bad = root / "bad.yaml"
    put(bad)
    (root / "a.yaml").write_text(text("a"))
    async with asyncio.timeout(10):
        assert await names(store) == ["a"]
        problem, snapshot = [await upcoming(events) for events in [store.watch(ConfigMap)] for _ in range(2)]
        await store.put(ConfigMap(metadata=ObjectMeta(name="b", namespace="x")))
        assert await names(store) == ["a", "b"]
    assert isinstance(problem, ReadProblem)
    assert str(bad) in str(problem.error)
    assert isinstance(snapshot, Snapshot)
