"""What an agent's last life knew: in files that survive what happens to files, and that are never half believed."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store import last_state, object_log
from percale.store.encoded_object import EncodedObject, encode
from percale.store.last_state import LastState
from percale.store.object_log import ObjectLog
from percale.store.protocol import ReadProblem

Objects = dict[ObjectKey, EncodedObject]


def objects(*names: str, text: str = "1") -> Objects:
    made = [encode(ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"x": text})) for name in names]
    return {each.key: each for each in made}


def opened(path: Path, store: bytes = b"one") -> ObjectLog:
    return ObjectLog(path, ConfigMap, store, lambda log: None)


def written(path: Path, known: Objects) -> ObjectLog:
    log = opened(path)
    log.follow(known)
    save(log)
    return log


def save(log: ObjectLog) -> None:
    whole, entries = log.take()
    log.write(entries, whole=whole)


def change(log: ObjectLog, known: Objects, *changes: tuple[ObjectKey, EncodedObject | None]) -> None:
    for key, entry in changes:
        if entry is None:
            del known[key]
        else:
            known[key] = entry
        log.record(key, entry)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last-state" / "ConfigMap"


def test_the_next_life_has_all_objects_and_what_changed(path: Path) -> None:
    known = objects("a", "b", "c")
    log = written(path, known)
    assert opened(path).load() == known
    change(log, known, *objects("a", text="2").items(), (ObjectKey("default", "b"), None), *objects("d").items())
    size = path.stat().st_size
    save(log)
    assert path.stat().st_size < 2 * size
    assert opened(path).load() == known
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_projections_own_key_and_version_come_back(path: Path) -> None:
    (entry,) = objects("a").values()
    known = {ObjectKey(None, "n1"): EncodedObject(ConfigMap, entry.key, entry.packed, "17")}
    written(path, known)
    assert opened(path).load() == known


def test_a_change_is_appended_and_the_file_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_log, "_OUTDATED", 10)
    known = objects(*map(str, range(100)))
    log = written(path, known)
    base = path.stat().st_size
    sizes = []
    for number in range(1000):
        change(log, known, *objects("7", text=str(number)).items())
        save(log)
        sizes.append(path.stat().st_size)
    assert sizes[0] - base < base / 50, "one change is one record"
    assert max(sizes) < 2.5 * base
    assert opened(path).load() == known


def test_one_of_the_middle_of_an_append_is_left_out(path: Path) -> None:
    known = objects("a")
    log = written(path, known)
    before = path.read_bytes()
    change(log, known, *objects("b").items())
    save(log)
    after = path.read_bytes()
    for length in range(len(before), len(after)):
        path.write_bytes(after[:length])
        assert opened(path).load() == objects("a")
    path.write_bytes(after[:-1])
    log = opened(path)
    known = log.load() or {}
    log.follow(known)
    change(log, known, *objects("c").items())
    save(log)
    assert opened(path).load() == objects("a", "c"), "nothing is appended to half a record"


def test_a_file_without_all_of_its_base_is_none(path: Path) -> None:
    """What is missing may be the policy that closes a pod."""
    written(path, objects("a", "b"))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert opened(path).load() is None


@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("state") / "ConfigMap"
    known = objects("a", "b")
    written(path, known)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert opened(path).load() is None


@given(st.binary(max_size=200))
def test_anything_else_in_its_place_is_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "ConfigMap"
    path.write_bytes(content)
    assert opened(path).load() is None


def test_what_is_no_file_of_ours_is_none(path: Path) -> None:
    written(path, objects("a"))
    assert opened(path, b"another store").load() is None
    path.chmod(0o666)
    assert opened(path).load() is None, "others could have written it"
    path.chmod(0o600)
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    assert opened(path).load() is None
    path.unlink()
    os.mkfifo(path)
    assert opened(path).load() is None
    path.unlink()
    path.mkdir()
    assert opened(path).load() is None


def test_another_format_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_log, "_FORMAT", 2)
    written(path, objects("a"))
    monkeypatch.undo()
    assert opened(path).load() is None


@pytest.fixture
async def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LastState]:
    monkeypatch.setattr(last_state, "_RETRY", 0.01)
    made = LastState(tmp_path / "last-state", "etcd:http://one")
    yield made
    with suppress(RuntimeError):
        await made.close()


async def test_changes_are_written_soon_and_the_last_at_the_end(state: LastState, path: Path) -> None:
    known = objects("a")
    log = state.log(ConfigMap)
    assert await state.run(log.load) is None
    log.follow(known)
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)
    change(log, known, *objects("b").items())
    await state.close()
    again = LastState(path.parent, "etcd:http://one")
    assert await again.run(again.log(ConfigMap).load) == known
    await again.close()


async def test_a_directory_that_cannot_be_written_is_a_problem_until_it_can(state: LastState, path: Path) -> None:
    problems: list[ReadProblem] = []
    state.on_problem = problems.append
    path.parent.write_text("in the way")
    known = objects("a")
    log = state.log(ConfigMap)
    log.follow(known)
    async with asyncio.timeout(10):
        while not problems:
            await asyncio.sleep(0.01)
        assert "last-state: cannot be written: " in str(problems[0].error) and problems[0].complete
        change(log, known, *objects("b").items())
        path.parent.unlink()
        while problems[-1].error is not None:
            await asyncio.sleep(0.01)
    assert await state.run(opened(path, log._store).load) == known
