"""Two processes on one directory, step by step, without an event loop that looks in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.builders import pod
from tests.unit.store.conftest import opened

from percale.errors import Conflict, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.pod import Pod
from percale.store.files.directory import Directory
from percale.store.files.writes import write_own_file
from percale.store.protocol import Deleted, Upserted

KEY = ObjectKey("default", "a")


def config(text: str = "1") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": text})


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Directory, Directory]]:
    both = opened(tmp_path), opened(tmp_path)
    yield both
    for each in both:
        each.close()


def test_a_file_that_is_gone_before_its_new_folder_is_watched(pair: tuple[Directory, Directory]) -> None:
    one, two = pair
    written = one.put(config(), None, None)
    two.delete(ConfigMap, KEY, None)
    one.catch_up()
    assert one.list(ConfigMap) == []
    assert one.take_events() == [Upserted(written), Deleted(written)]


def test_a_writer_compares_with_what_another_has_just_written(pair: tuple[Directory, Directory]) -> None:
    one, two = pair
    first = one.put(config("1"), "", None)
    second = two.put(config("2"), first.metadata.resourceVersion, None)
    with pytest.raises(Conflict):
        one.put(config("3"), first.metadata.resourceVersion, None)
    assert one.get(ConfigMap, KEY) == second
    assert one.take_events() == [Upserted(first), Upserted(second)]


def test_an_own_write_is_published_once(pair: tuple[Directory, Directory]) -> None:
    one, _ = pair
    written = one.put(config(), None, None)
    for _ in range(3):
        one.catch_up()
    assert one.take_events() == [Upserted(written)]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Directory]:
    """Own files of the pods x and y, one that is broken (whoever reads it has a problem), and a person's file."""
    (tmp_path / "Pod/default").mkdir(parents=True)
    for name in ("x", "y"):
        (tmp_path / f"Pod/default/{name}.json").write_bytes(to_json(pod(name)))
    (tmp_path / "Pod/default/bad.json").write_text("{")
    (tmp_path / "Pod/mine.yaml").write_bytes(to_json(pod("mine")) + b"\n---\n" + to_json(config()))
    directory = opened(tmp_path)
    yield directory
    directory.close()


def names(directory: Directory, kind: type[Object]) -> list[str]:
    return [obj.metadata.name for obj in directory.list(kind)]


def test_own_files_of_a_kind_that_nobody_lists_are_not_read(tmp_path: Path, filled: Directory) -> None:
    assert names(filled, ConfigMap) == ["a"]
    (tmp_path / "Pod/default/bad.json").write_text("{")
    filled.catch_up()
    assert filled.problems == []
    assert names(filled, Pod) == ["mine", "x", "y"]
    assert [problem.source for problem in filled.problems] == [f"{tmp_path}/Pod/default/bad.json"]


def test_one_object_is_read_by_itself_and_kept_up_to_date(filled: Directory, pair: tuple[Directory, Directory]) -> None:
    found = filled.get(Pod, ObjectKey("default", "y"))
    assert found is not None
    changed = pair[0].put(replace(found, metadata=replace(found.metadata, labels={"new": "yes"})), None, None)
    filled.catch_up()
    assert filled.get(Pod, ObjectKey("default", "y")) == changed
    pair[1].delete(Pod, ObjectKey("default", "y"), None)
    filled.catch_up()
    assert filled.get(Pod, ObjectKey("default", "y")) is None
    assert filled.get(Pod, ObjectKey("default", "mine")) is not None
    assert filled.problems == []


def test_a_kind_is_followed_from_its_first_list_on(filled: Directory, pair: tuple[Directory, Directory]) -> None:
    assert "z" not in names(filled, Pod)
    filled.take_events()
    written = pair[0].put(pod("z"), None, None)
    filled.catch_up()
    assert filled.take_events() == [Upserted(written)]


def test_a_put_compares_with_an_own_file_that_was_not_read(filled: Directory) -> None:
    with pytest.raises(Conflict, match="exists already"):
        filled.put(pod("x"), "", None)


def test_a_write_does_not_recreate_a_removed_store(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with pytest.raises(StoreUnavailable, match="No such file"):
        write_own_file(root, "ConfigMap/default/a.json", b"{}")
    assert not root.exists()
