"""What the files store reads: documents, their problems, and what is no manifest at all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.unit.store.conftest import names, summary, text, upcoming

from percale.bounded_file import MAX_SIZE
from percale.errors import BadConfig, BadManifest, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.pod import Pod
from percale.store.files.store import FilesStore
from percale.store.protocol import Event, ReadProblem, Snapshot, Upserted
from percale.store.registry import open_store


async def test_several_documents_and_lists(root: Path, store: FilesStore) -> None:
    (root / "many.yaml").write_text(text("a") + "---\n" + text("b"))
    (root / "list.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}]}'
    )
    assert await names(store) == ["a", "b", "c"]


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
    with pytest.raises(BadConfig, match='no store "consul:x"; write files:/DIRECTORY'):
        open_store("consul:x")


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
