"""Which boot of this machine it is: what the kernel held before another one is gone."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """The kernel's own, a random one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
