"""Events about the objects that this node cannot serve as they want it, for their authors. The tables' authors warn.

    warn(subject, reason, message) ─▶ the latest of each object and reason ─▶ Store.put, a few at a time

An Event is gone an hour after it was last said. All nodes may have the same to say, and its author may change the object again
and again: so each node says little at once, and no object's twice in a short time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

from percale.agent.problems import Problems
from percale.errors import PercaleError
from percale.model.event import Event, EventSource, ObjectReference
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.protocol import Store

LASTS = 3600.0
"""Seconds."""
_PAUSE = 5.0
"""Seconds between two Events, once some have been said at once."""
_AT_ONCE = 10
_AGAIN = 60.0
"""Seconds until the same is said again of an object."""
_LONGEST_MESSAGE = 1024
"""Characters: the API server takes no more."""
_LONGEST_NAME = 200
_SOURCE = "events"


class Subject(NamedTuple):
    """The object that a part of a table is for; `kind` as the API has it."""

    kind: str
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.key}"


class Events:
    """All methods are called on the event loop."""

    def __init__(self, node: str, store: Store, problems: Problems, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch."""
        self._node = node
        self._store = store
        self._problems = problems
        self._clock = clock
        self._pending: dict[tuple[Subject, str], str] = {}
        self._said: dict[tuple[Subject, str], tuple[float, Event]] = {}
        self._due = asyncio.Event()

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        """Something is wrong with it on this node. Returns at once."""
        which = (subject, reason)
        said = self._said.get(which)
        if said is not None and said[1].message == message[:_LONGEST_MESSAGE] and self._clock() - said[0] < _AGAIN:
            return
        self._pending[which] = message
        self._due.set()

    async def run(self) -> None:
        """For ever. A store that does not take them is a trouble, and the Event is lost."""
        loop = asyncio.get_running_loop()
        begun, said = loop.time(), 0
        while True:
            await self._due.wait()
            if loop.time() - begun > _AT_ONCE * _PAUSE:
                begun, said = loop.time(), 0
            if said >= _AT_ONCE:
                await asyncio.sleep(_PAUSE)
            said += 1
            which = next(iter(self._pending))
            message = self._pending.pop(which)
            if not self._pending:
                self._due.clear()
            await self._say(*which, message[:_LONGEST_MESSAGE])

    async def _say(self, subject: Subject, reason: str, message: str) -> None:
        now = self._clock()
        self._said = {which: said for which, said in self._said.items() if now - said[0] < LASTS}
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before = self._said.get((subject, reason))
        kind, key = subject
        event = Event(
            metadata=ObjectMeta(
                name=f"{key.name[:_LONGEST_NAME]}.{_digest(kind, key.name, reason, self._node)}",
                namespace=key.namespace or "default",
            ),
            involvedObject=ObjectReference(kind=kind, namespace=key.namespace, name=key.name),
            reason=reason,
            message=message,
            type="Warning",
            source=EventSource(component="percale", host=self._node),
            firstTimestamp=before[1].firstTimestamp if before is not None else stamp,
            lastTimestamp=stamp,
            count=before[1].count + 1 if before is not None else 1,
        )
        self._said[subject, reason] = now, event
        try:
            await self._store.put(event, ttl=LASTS)
        except PercaleError as error:
            self._problems.record(_SOURCE, error)


def _digest(*words: str) -> str:
    return blake2b("/".join(words).encode(), digest_size=8).hexdigest()
