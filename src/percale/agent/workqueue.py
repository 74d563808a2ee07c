"""Work that is asked for at any time and done in rounds, each tried again until it succeeds.

Used by `established_flows.py` and `conntrack_cleanup.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from percale.agent.problems import Problems

W = TypeVar("W")

PAUSE = 1.0
"""Seconds until a round that failed is tried again."""


class Rounds(Generic[W]):
    """All methods are called on the event loop. What is asked for while a round lasts is the next round together."""

    def __init__(
        self,
        nothing: W,
        join: Callable[[W, W], W],
        work: Callable[[W], Awaitable[None]],
        *,
        failed: Callable[[OSError], Exception],
        source: str,
        problems: Problems,
    ) -> None:
        """`join` takes what was asked for before and since; an OSError of `work` is a trouble, in the words of `failed`."""
        self._nothing = self._waiting = nothing
        self._join = join
        self._work = work
        self._failed = failed
        self._source = source
        self._problems = problems
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def ask(self, more: W) -> None:
        """Returns at once."""
        self._waiting = self._join(self._waiting, more)
        self._idle.clear()
        self._due.set()

    async def idle(self) -> None:
        """Wait until all that was asked for is done."""
        await self._idle.wait()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            waiting, self._waiting = self._waiting, self._nothing
            try:
                await self._work(waiting)
            except OSError as error:
                self._waiting = self._join(waiting, self._waiting)
                self._due.set()
                self._problems.raise_(self._source, self._failed(error))
                await asyncio.sleep(PAUSE)
                continue
            self._problems.clear(self._source)
            if not self._due.is_set():
                self._idle.set()
