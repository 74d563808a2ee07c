"""Kernel settings below /proc/sys; those of the network follow the namespace of the thread that opens them.

`driver` calls these on its namespace's thread.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")


def read(name: str) -> str:
    """The setting's value, parted by single spaces. Raises OSError."""
    return " ".join((_ROOT / name).read_text().split())


def write(name: str, value: str) -> None:
    """Make it so; an equal value is not written again. Raises OSError."""
    if read(name) != value:
        (_ROOT / name).write_text(value)
