"""Checks that read files of /proc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.waiting import until

from percale.agent.config import loader
from percale.checks import limits, others
from percale.checks.host import Host

STATISTICS = "entries found insert_failed drop\n00000007 00000001 {:08x} 00000000\n00000007 00000001 {:08x} 00000000\n"


def host(proc: Path = Path("/proc")) -> Host:
    return Host(loader.load(None, {}, {"store": "files:/nonexistent"}), proc=proc)


def test_a_lock_of_iptables_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setattr(others, "_XTABLES_LOCK", lock)
    assert others.xtables_lock(host()) is None
    lock.touch()
    free = others.xtables_lock(host())
    assert free is not None
    assert free.result == "ok"
    with subprocess.Popen(["flock", "--no-fork", lock, "sleep", "1000"]) as hanging:
        try:
            until(lambda: (found := others.xtables_lock(host())) is not None and found.result == "warning")
            found = others.xtables_lock(host())
            assert found is not None
            assert found.evidence == f"pid {hanging.pid} keeps {lock}"
            for command in found.type:
                subprocess.run(["sh", "-ec", command], check=True, capture_output=True)
            assert hanging.wait(30) != 0
        finally:
            hanging.kill()
    assert others.xtables_lock(host()) == free


@pytest.mark.parametrize(
    ("each", "hours", "result"), [(0, 1, "ok"), (4, 1, "ok"), (5, 1, "warning"), (5, 11, "ok"), (20, 11, "warning")]
)
def test_first_packets_that_clashed(tmp_path: Path, each: int, hours: int, result: str) -> None:
    """Of two CPUs. Later the same number is too few an hour: what was mended is forgotten."""
    directory = tmp_path / "thread-self/net/stat"
    directory.mkdir(parents=True)
    (directory / "nf_conntrack").write_text(STATISTICS.format(each, each))
    (tmp_path / "uptime").write_text(f"{3600 * hours}.00 7.00\n")
    found = limits.clashes(host(tmp_path))
    assert found is not None
    assert (found.result, found.evidence.split()[0]) == (result, str(2 * each))
    assert (found.type != ()) == (result == "warning")
