"""What a watch is, for stores that hold their objects in memory: a queue for each watcher. `memory` and `files` use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from percale.model.meta import Object
from percale.store.protocol import Deleted, Event, Snapshot, Trouble, Upserted


class Watchers:
    """Events go to whoever watches their kind, in order. All methods are called on the event loop."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[Event | None], tuple[type[Object], ...]] = {}

    async def watch(self, kinds: tuple[type[Object], ...], snapshot: Callable[[], list[Event]]) -> AsyncIterator[Event]:
        """First what `snapshot` gives (at the moment the watch begins), then everything told from then on."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[queue] = kinds
        try:
            for first in snapshot():
                yield first
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.pop(queue, None)

    def tell(self, event: Upserted | Deleted | Trouble) -> None:
        """To all watchers of the object's kind; troubles to all."""
        for queue, kinds in self._queues.items():
            if isinstance(event, Trouble) or isinstance(event.object, kinds):
                queue.put_nowait(event)

    def renew(self, snapshot_of: Callable[[tuple[type[Object], ...]], Snapshot]) -> None:
        """Everybody gets a new snapshot: what happened in between is not known."""
        for queue, kinds in self._queues.items():
            queue.put_nowait(snapshot_of(kinds))

    def close(self) -> None:
        """All watches end, once their queues are read."""
        for queue in self._queues:
            queue.put_nowait(None)
