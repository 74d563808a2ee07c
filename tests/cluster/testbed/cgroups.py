"""The cgroups of a testbed (v1): they count what each node takes, and say which processes are the testbed's."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.cluster.testbed.layout import NAME

ROOT = Path("/sys/fs/cgroup")
_SHARES = "10240"
"""A group has by default what one process beside it has; a testbed is dozens, with clocks that expire."""


def hierarchies() -> list[Path]:
    """The mounted ones; none with cgroup v2."""
    return [each for each in sorted(ROOT.iterdir()) if not each.is_symlink() and (each / "cgroup.procs").exists()]


def create(member: str) -> None:
    """For the daemons and pods of a node."""
    for hierarchy in hierarchies():
        for group in (hierarchy / NAME, hierarchy / NAME / member, hierarchy / NAME / member / "daemons"):
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty ones would admit no process
                if (group / setting).exists() and not (group / setting).read_text().strip():
                    (group / setting).write_text((group.parent / setting).read_text())


def set_shares() -> None:
    """Once a group has been created."""
    (ROOT / "cpu" / NAME / "cpu.shares").write_text(_SHARES)


def daemons(member: str) -> list[str]:
    """The files to which a daemon of a node writes its pid."""
    return [str(hierarchy / NAME / member / "daemons" / "cgroup.procs") for hierarchy in hierarchies()]


def processes(member: str = "") -> set[int]:
    """All of the testbed, or of a node, pods included; groups may go meanwhile."""
    found = set()
    for hierarchy in hierarchies():
        for group, _, _ in os.walk(hierarchy / NAME / member):
            with suppress(OSError):
                found |= {int(line) for line in Path(group, "cgroup.procs").read_text().split()}
    return found - {0}


def kill_all(seconds: float = 30.0) -> set[int]:
    """Ends every process of the testbed; the ones that are still there."""
    end = time.monotonic() + seconds
    while (left := processes()) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    return left


def remove(seconds: float = 5.0) -> list[Path]:
    """Once no process is in them; the ones that are still there."""
    end = time.monotonic() + seconds
    while True:
        left = [hierarchy / NAME for hierarchy in hierarchies() if (hierarchy / NAME).exists()]
        if not left or time.monotonic() > end:
            return left
        for root in left:
            for group in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
                _remove(group)
            _remove(root)


def usage(member: str) -> tuple[float, int]:
    """CPU seconds and bytes of anonymous memory of a node, or of a group below it."""
    seconds = int((ROOT / "cpuacct" / NAME / member / "cpuacct.usage").read_text()) / 1e9
    memory = dict(line.split() for line in (ROOT / "memory" / NAME / member / "memory.stat").read_text().splitlines())
    return seconds, int(memory["total_rss"])


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:  # a process is still ending: the caller tries again
        time.sleep(0.01)
