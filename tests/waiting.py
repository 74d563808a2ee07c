"""Waiting for what other tasks, processes and the kernel do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

PATIENCE = 30.0
"""Seconds; whatever takes longer failed."""
_PAUSE = 0.01


def until(condition: Callable[[], Any], what: str = "it happens", *, patience: float = PATIENCE) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {patience:.0f} s: {what}"
        time.sleep(_PAUSE)
    return value


async def eventually(condition: Callable[[], Any], what: str = "it happens") -> Any:
    """The same while the event loop runs; the condition may be a coroutine function."""
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        await asyncio.sleep(_PAUSE)
