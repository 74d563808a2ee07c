"""Runs a function in one of the lab's network namespaces, on a helper thread.

`responder` and `probe` open their sockets with it: a socket stays in the namespace where it was created.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from percale.kernel.netns import NetnsThread

T = TypeVar("T")


def visit(namespace: Path, action: Callable[[], T]) -> T:
    """What `action` returns inside the namespace, or its exception. Raises OSError when there is no such namespace."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        thread = NetnsThread(descriptor, name="visit")
    finally:
        os.close(descriptor)
    try:
        return thread.run(action)
    finally:
        thread.close()


async def visit_async(namespace: Path, action: Callable[[], T]) -> T:
    """The same from the event loop, without blocking it."""
    return await asyncio.to_thread(visit, namespace, action)
