"""Watches of a store, each with its own queue, so that a slow reader loses no event and blocks no other.

Used by all stores, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from percale.errors import StoreError
from percale.model.meta import Object
from percale.store.protocol import Event, ReadProblem, Snapshot


class Watch:
    """One reader's queue, filtered by kinds."""

    def __init__(self, kinds: Iterable[type[Object]]) -> None:
        self.kinds = frozenset(kinds)
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    def offer(self, event: Event) -> None:
        """Queue the event if it passes the filter."""
        if isinstance(event, Snapshot | ReadProblem) or type(event.object) in self.kinds:
            self._events.append(event)
            self._changed.set()

    def end(self, error: BaseException | None) -> None:
        """End the watch after the queued events, with this error if any; a second end means nothing."""
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.set()

    async def events(self) -> AsyncIterator[Event]:
        """All events in order. Raises the error that ended the watch."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._ended:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error


class Watches:
    def __init__(self) -> None:
        self._open: set[Watch] = set()

    def add(self, watch: Watch, first: Iterable[Event]) -> None:
        """Queue the first events, then everything published from now on."""
        for event in first:
            watch.offer(event)
        self._open.add(watch)

    def remove(self, watch: Watch) -> None:
        """The reader is gone."""
        self._open.discard(watch)

    def publish(self, events: Iterable[Event]) -> None:
        """Queue the events in all watches."""
        for event in events:
            for watch in self._open:
                watch.offer(event)

    def end(self, error: StoreError | None = None) -> None:
        for watch in self._open:
            watch.end(error)
        self._open.clear()
