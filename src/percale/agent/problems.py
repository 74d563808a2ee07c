"""What is wrong now, by source: the store, the lease, the underlay, a kernel object. Logged when raised and when cleared.

All parts of the agent raise and clear problems; /readyz, /status and /metrics read them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from percale.agent.logging import Log

_LONGEST = 2000
"""Characters of an error: authors of objects may write as much as they like into what it quotes."""


def shortened(text: str) -> str:
    """The text without the middle of a very long one, whose end may say what to do."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


class Problem(msgspec.Struct, frozen=True):
    """`since` is in seconds since the epoch."""

    source: str
    error: str
    since: float


class Problems:
    """All methods are called on the event loop."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.time) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever `current` changes."""
        self._log = log
        self._clock = clock
        self._current: dict[str, Problem] = {}
        self._cleared = asyncio.Event()
        self.last: Problem | None = None
        """The latest one, cleared or not."""

    @property
    def current(self) -> Mapping[str, Problem]:
        """By source."""
        return MappingProxyType(self._current)

    def raise_(self, source: str, error: Exception) -> None:
        """Lasts until `clear`. Repeating the same error changes nothing."""
        text = shortened(str(error))
        known = self._current.get(source)
        if known is not None and known.error == text:
            return
        self._current[source] = self._recorded(source, text)
        self.on_change()

    def record(self, source: str, error: Exception) -> None:
        """A single event, or a problem whose end is tracked elsewhere (the reconciler's)."""
        self._recorded(source, shortened(str(error)))

    def _recorded(self, source: str, text: str) -> Problem:
        self.last = Problem(source, text, self._clock())
        self._log.warn("problem", source=source, error=text)
        return self.last

    def clear(self, source: str) -> None:
        """Without a current problem of this source: no effect."""
        if self._current.pop(source, None) is not None:
            self._log.info("problem cleared", source=source)
            self._cleared.set()
            self.on_change()

    async def wait_clear(self, prefix: str) -> None:
        """Wait until there is no problem whose source has this prefix."""
        while any(source.startswith(prefix) for source in self._current):
            self._cleared.clear()
            await self._cleared.wait()
