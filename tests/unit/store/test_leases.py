"""Leases in files: they end by the clock of the boot, for every reader."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tests.unit.store.conftest import summary, text, upcoming

from percale.kernel import syscalls
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectMeta
from percale.store.files.lease_expiry import ANNOTATION, BootClock
from percale.store.files.store import FilesStore

MS_REMOUNT = 0x20


class Clock:
    """A boot that a test controls."""

    def __init__(self, boot: str = "first") -> None:
        self.boot, self.seconds = boot, 1000.0

    def clock(self) -> BootClock:
        return BootClock(boot=lambda: self.boot, now=lambda: self.seconds)


LEASED = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "1"})


async def test_the_end_of_a_lease_is_in_the_file_and_not_in_the_object(root: Path) -> None:
    clock = Clock()
    store = FilesStore(root, clock=clock.clock())
    written = await store.put(LEASED, ttl=60)
    file = root / "ConfigMap/default/a.json"
    assert json.loads(file.read_bytes())["metadata"]["annotations"] == {ANNOTATION: "first 1060.000 60"}
    assert await store.list(ConfigMap) == [written]
    assert written.metadata.annotations == {}
    clock.seconds += 59
    assert await store.list(ConfigMap) == [written]
    clock.seconds += 1
    assert await store.list(ConfigMap) == []
    assert not file.exists()
    await store.close()


async def test_after_a_reboot_a_lease_is_as_if_just_renewed(root: Path) -> None:
    before = Clock()
    store = FilesStore(root, clock=before.clock())
    written = await store.put(LEASED, ttl=60)
    await store.close()
    after = Clock("second")
    after.seconds = 5000.0
    store = FilesStore(root, clock=after.clock())
    assert await store.list(ConfigMap) == [written]
    after.seconds += 59
    assert await store.list(ConfigMap) == [written]
    after.seconds += 1
    assert await store.list(ConfigMap) == []
    await store.close()


async def test_a_lease_that_another_process_renews_goes_on(root: Path) -> None:
    clock = Clock()
    one, two = FilesStore(root, clock=clock.clock()), FilesStore(root, clock=clock.clock())
    written = await one.put(LEASED, ttl=60)
    assert await two.list(ConfigMap) == [written]
    clock.seconds += 50
    await one.put(LEASED, ttl=60)
    clock.seconds += 50
    assert await two.list(ConfigMap) == [written]
    assert (root / "ConfigMap/default/a.json").exists()
    await one.close()
    await two.close()


async def test_a_lease_that_cannot_be_deleted_has_ended_all_the_same(root: Path) -> None:
    clock = Clock()
    store = FilesStore(root, clock=clock.clock())
    await store.put(LEASED, ttl=60)
    syscalls.mount(str(root), str(root), flags=syscalls.MS_BIND)
    syscalls.mount("none", str(root), flags=syscalls.MS_BIND | syscalls.MS_RDONLY | MS_REMOUNT)
    clock.seconds += 60
    assert await store.list(ConfigMap) == []
    assert await store.list(ConfigMap) == []
    syscalls.umount(str(root))
    await store.close()


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
async def test_a_jump_of_the_wall_clock_ends_no_lease(root: Path, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    store = FilesStore(root)
    written = await store.put(LEASED, ttl=600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    for each in root.rglob("*.json"):
        os.utime(each, (real() + jump, real() + jump))
    again = FilesStore(root)
    assert await store.list(ConfigMap) == await again.list(ConfigMap) == [written]
    await store.close()
    await again.close()


@pytest.mark.parametrize("stamp", ["soon", "x nan nan", "x 1 inf", "x 1 1e999", "x 1"])
async def test_an_invalid_lease_annotation_is_a_problem(root: Path, store: FilesStore, stamp: str) -> None:
    (root / "a.yaml").write_text(text("a").replace("  name: a", f"  name: a\n  annotations: {{{ANNOTATION}: {stamp}}}"))
    watch = store.watch(ConfigMap)
    assert (
        f'a.yaml:1: metadata.annotations["{ANNOTATION}"]: not a lease; remove it' in summary(await upcoming(watch))[1]
    )
