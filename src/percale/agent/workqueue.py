"""A queue of mergeable work, processed in batches, each retried until it succeeds.

Used by `established_flows.py` and `conntrack_cleanup.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from percale.agent.problems import Problems

W = TypeVar("W")

RETRY_INTERVAL = 1.0
"""Seconds until a failed batch is processed again."""


class WorkQueue(Generic[W]):
    """All methods are called on the event loop. Work added while a batch is processed is merged into the next one."""

    def __init__(
        self,
        empty: W,
        merge: Callable[[W, W], W],
        process: Callable[[W], Awaitable[None]],
        *,
        to_error: Callable[[OSError], Exception],
        source: str,
        problems: Problems,
    ) -> None:
        """`merge(older, newer)`. An OSError of `process` is raised as a problem of `source`, converted by `to_error`."""
        self._empty = self._pending = empty
        self._merge = merge
        self._process = process
        self._to_error = to_error
        self._source = source
        self._problems = problems
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, more: W) -> None:
        """Returns at once."""
        self._pending = self._merge(self._pending, more)
        self._idle.clear()
        self._due.set()

    async def wait_idle(self) -> None:
        """Wait until all work is done."""
        await self._idle.wait()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            batch, self._pending = self._pending, self._empty
            try:
                await self._process(batch)
            except OSError as error:
                self._pending = self._merge(batch, self._pending)
                self._due.set()
                self._problems.raise_(self._source, self._to_error(error))
                await asyncio.sleep(RETRY_INTERVAL)
                continue
            self._problems.clear(self._source)
            if not self._due.is_set():
                self._idle.set()
