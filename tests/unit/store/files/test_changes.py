"""What people do to the files: each change is the event that a watch expects."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.store.conftest import names, summary, text, upcoming

from percale.errors import StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectMeta
from percale.store.files.lease_expiry import BootClock
from percale.store.files.store import FilesStore
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted


async def test_an_edit_is_an_event_for_what_changed_only(root: Path, store: FilesStore) -> None:
    file = root / "many.yaml"
    file.write_text(text("a") + "---\n" + text("b"))
    events = store.watch(ConfigMap)
    assert isinstance(await upcoming(events), Snapshot)
    file.write_text(text("a") + "---\n" + text("b", "2"))
    event = await upcoming(events)
    assert isinstance(event, Upserted)
    assert event.object.metadata.name == "b"


async def test_a_file_that_disappears_takes_its_objects_with_it(root: Path, store: FilesStore) -> None:
    file = root / "a.yaml"
    file.write_text(text("a"))
    events = store.watch(ConfigMap)
    await upcoming(events)
    file.unlink()
    assert isinstance(await upcoming(events), Deleted)
    assert await names(store) == []


async def test_a_name_that_is_not_utf8_is_one_problem_until_it_is_renamed(root: Path, store: FilesStore) -> None:
    """Whatever the file has, and though a name is a part of what is told; the other files are read."""
    (root / "ok.yaml").write_text(text("ok"))
    watch = store.watch(ConfigMap)
    assert [each.metadata.name for each in (await upcoming(watch)).of(ConfigMap)] == ["ok"]  # type: ignore[union-attr]
    odd = root / os.fsdecode(b"bad\xff.yaml")
    for content in ("nonsense: [", text("a")):
        odd.write_text(content)
        if content == "nonsense: [":
            problem = await upcoming(watch)
    assert isinstance(problem, ReadProblem)
    assert problem.source == f"{root}/bad\\xff.yaml"
    assert str(problem.error) == f"{root}/bad\\xff.yaml: the file's name is not UTF-8 text; rename it"
    odd.rename(root / "good.yaml")
    renamed = [await upcoming(watch), await upcoming(watch)]
    assert ReadProblem(problem.source, None) in renamed
    assert [summary(each) for each in renamed if isinstance(each, Upserted)] == [("Upserted", "a=1")]


async def test_a_new_folder_with_files_is_found(root: Path, store: FilesStore) -> None:
    events = store.watch(ConfigMap)
    await upcoming(events)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "a.yaml").write_text(text("a"))
    assert isinstance(await upcoming(events), Upserted)
    (root / "deep").rename(root.parent / "elsewhere")
    assert isinstance(await upcoming(events), Deleted)


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


async def test_a_file_that_becomes_invalid_while_the_directory_is_away_keeps_its_objects(root: Path) -> None:
    now = [100.0]
    clock = BootClock(boot=lambda: "boot", now=lambda: now[0])
    lease = ConfigMap(metadata=ObjectMeta(name="lease", namespace="default"))
    leasing = FilesStore(root, clock=clock)
    for name in ("broken", "gone", "kept", "repaired"):
        (root / f"{name}.yaml").write_text(text(name))
    try:
        await leasing.put(lease, ttl=60)
        watch = leasing.watch(ConfigMap)
        await upcoming(watch)
        (root / "repaired.yaml").write_text("kind: [")
        assert isinstance(await upcoming(watch), ReadProblem)
        away = root.rename(root.parent / "away")
        with pytest.raises(StoreUnavailable):
            await upcoming(watch)
        (away / "broken.yaml").write_text(text("broken").replace("data:", "data"))
        (away / "gone.yaml").unlink()
        (away / "repaired.yaml").write_text(text("repaired", "2"))
        (away / "new.yaml").write_text(text("new"))
        own = next(away.glob("ConfigMap/*/lease.json"))
        own.write_text(own.read_text()[:-3])
        now[0] += 61
        away.rename(root)
        again = leasing.watch(ConfigMap)
        problems = [await upcoming(again), await upcoming(again)]
        assert [Path(each.source).name for each in problems if isinstance(each, ReadProblem)] == [
            own.name,
            "broken.yaml",
        ]
        snapshot = await upcoming(again)
        assert isinstance(snapshot, Snapshot)
        assert [(each.metadata.name, each.data) for each in snapshot.of(ConfigMap)] == [
            ("broken", {"x": "1"}),
            ("kept", {"x": "1"}),
            ("new", {"x": "1"}),
            ("repaired", {"x": "2"}),
        ]
    finally:
        await leasing.close()


async def test_another_directory_in_the_place_of_the_old_one(root: Path, store: FilesStore) -> None:
    assert await names(store) == []
    root.rmdir()
    root.mkdir()
    (root / "a.yaml").write_text(text("a"))
    with pytest.raises(StoreUnavailable, match="the directory is gone"):
        await store.put(ConfigMap(metadata=ObjectMeta(name="b")))
    assert await names(store) == ["a"]


async def test_folders_nested_as_deep_as_a_path_can_name_are_read(root: Path, store: FilesStore) -> None:
    deepest = _nested(root, "d", 1200)
    (deepest / "a.yaml").write_text(text("a"))
    assert await names(store) == ["a"]
    (deepest / "a.yaml").unlink()
    for folder in [deepest, *deepest.parents][:1200]:  # pytest's own way recurses
        folder.rmdir()


async def test_a_folder_that_cannot_be_watched_is_a_problem_of_its_own(root: Path, store: FilesStore) -> None:
    (root / "a.yaml").write_text(text("a"))
    _nested(root, "d" * 250, 20)
    events = store.watch(ConfigMap)
    problem = await upcoming(events)
    assert isinstance(problem, ReadProblem)
    assert "File name too long" in str(problem.error)
    assert isinstance(await upcoming(events), Snapshot)
    (root / "b.yaml").write_text(text("b"))
    assert summary(await upcoming(events)) == ("Upserted", "b=1")
    (root / ("d" * 250)).rename(root.parent / "d")
    cleared = await upcoming(events)
    assert isinstance(cleared, ReadProblem)
    assert cleared.error is None


def _nested(root: Path, name: str, depth: int) -> Path:
    """The innermost of so many folders, also where the path is too long to be used; by descriptors."""
    folder = os.open(root, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    return root.joinpath(*[name] * depth)
