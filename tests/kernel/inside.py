"""Running something, mostly making a socket, in a network namespace: a socket belongs to the one in which it was made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

from percale.kernel.netns import NetnsThread

T = TypeVar("T")


class HasNamespace(Protocol):
    """A pod, a node, a machine."""

    @property
    def path(self) -> Path:
        """Of its namespace."""


def inside(where: Path | HasNamespace, action: Callable[[], T]) -> T:
    """What `action` returns there."""
    path = where if isinstance(where, Path) else where.path
    with path.open() as namespace, closing(NetnsThread(namespace.fileno())) as thread:
        return thread.run(action)
