"""The watches of a store: each has a queue of its own, so that a slow reader loses nothing and holds up nobody.

Called by `files` and `memory`, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from percale.errors import StoreError
from percale.model.meta import Object
from percale.store.protocol import Event, ReadProblem, Snapshot


class Watch:
    """One reader's queue, of the kinds it asked for."""

    def __init__(self, kinds: Iterable[type[Object]]) -> None:
        self.kinds = frozenset(kinds)
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: StoreError | None = None

    def offer(self, event: Event) -> None:
        """One more event, if the reader wants such."""
        if isinstance(event, Snapshot | ReadProblem) or type(event.object) in self.kinds:
            self._events.append(event)
            self._changed.set()

    def end(self, error: StoreError | None) -> None:
        """Nothing comes after what is queued but this error."""
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
    """All watches of a store."""

    def __init__(self) -> None:
        self._open: set[Watch] = set()

    def begin(self, watch: Watch, first: Iterable[Event]) -> None:
        """From now on it hears what is published; before that these events."""
        for event in first:
            watch.offer(event)
        self._open.add(watch)

    def leave(self, watch: Watch) -> None:
        """Nobody reads it any more."""
        self._open.discard(watch)

    def publish(self, events: Iterable[Event]) -> None:
        """Tell all."""
        for event in events:
            for watch in self._open:
                watch.offer(event)

    def end(self, error: StoreError | None = None) -> None:
        """No watch goes on."""
        for watch in self._open:
            watch.end(error)
        self._open.clear()
