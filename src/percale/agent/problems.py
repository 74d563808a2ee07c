"""What is wrong now, by its source: the store, the lease, the underlay, a kernel object. Logged once when it begins and ends.

Callers: all parts of the agent say `begin` and `end`; /readyz, /status and /metrics read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from percale.agent.logging import Log


class Trouble(msgspec.Struct, frozen=True):
    """`since` is in seconds since the epoch."""

    source: str
    error: str
    since: float


class Troubles:
    """All methods are called on the event loop."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._now: dict[str, Trouble] = {}
        self._ended = asyncio.Event()
        self.last: Trouble | None = None
        """The newest one, over or not."""

    @property
    def now(self) -> Mapping[str, Trouble]:
        """By source."""
        return MappingProxyType(self._now)

    def begin(self, source: str, error: Exception) -> None:
        """The same words from the same source again are no news."""
        text = str(error)
        known = self._now.get(source)
        if known is not None and known.error == text:
            return
        self._now[source] = self._noted(source, text)

    def note(self, source: str, error: Exception) -> None:
        """Something went wrong once, or its end is known elsewhere (the reconciler's problems)."""
        self._noted(source, str(error))

    def _noted(self, source: str, text: str) -> Trouble:
        self.last = Trouble(source, text, self._clock())
        self._log.warn("trouble", source=source, error=text)
        return self.last

    def end(self, source: str) -> None:
        """No trouble (any more)."""
        if self._now.pop(source, None) is not None:
            self._log.info("trouble over", source=source)
            self._ended.set()

    async def without(self, prefix: str) -> None:
        """Wait until no source that begins so is in trouble."""
        while any(source.startswith(prefix) for source in self._now):
            self._ended.clear()
            await self._ended.wait()
