"""Two processes on one directory, step by step, without an event loop that looks in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from percale.errors import Conflict
from percale.model.configmap import ConfigMap
from percale.model.kinds import KINDS
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.directory import Directory
from percale.store.leasing import BootClock
from percale.store.protocol import Deleted, Upserted

KEY = ObjectKey("default", "a")


def config(text: str = "1") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": text})


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Directory, Directory]]:
    both = Directory(tmp_path, KINDS, BootClock()), Directory(tmp_path, KINDS, BootClock())
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


def test_what_one_wrote_is_told_once(pair: tuple[Directory, Directory]) -> None:
    one, _ = pair
    written = one.put(config(), None, None)
    for _ in range(3):
        one.catch_up()
    assert one.take_events() == [Upserted(written)]
