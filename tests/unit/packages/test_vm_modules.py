"""The modules that the VM of the tests takes along: Debian 12's kernel has as modules what Debian 13's has built in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.vm.machine import needed_modules

DEPENDENCIES = {"virtio_pci": ["virtio_ring", "virtio"], "virtiofs": ["fuse"], "overlay": []}


@pytest.mark.parametrize(
    ("built_in", "needed"),
    [
        (set(), ["virtio", "virtio_ring", "virtio_pci", "fuse", "virtiofs", "overlay"]),
        ({"virtio_pci"}, ["fuse", "virtiofs", "overlay"]),
    ],
    ids=["Debian 12", "Debian 13"],
)
def test_each_comes_after_what_it_needs(tmp_path: Path, built_in: set[str], needed: list[str]) -> None:
    separate = {name: needs for name, needs in DEPENDENCIES.items() if name not in built_in}
    lines = [f"{name}.ko: {' '.join(f'{need}.ko' for need in needs)}\n" for name, needs in separate.items()]
    (tmp_path / "modules.dep").write_text("".join(lines))
    (tmp_path / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in built_in))
    for name in needed:
        (tmp_path / f"{name}.ko").write_text(name)
    assert [each.decode() for each in needed_modules(tmp_path)] == needed
