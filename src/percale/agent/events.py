"""Kubernetes Events about objects that this node cannot serve as specified, and about the node. Many parts emit them.

    warn(involved, reason, message) ─▶ the latest of each object and reason ─▶ Store.put, rate-limited

An Event expires an hour after its last occurrence. All nodes may emit the same one, and an object may change again and again:
so each node is limited to a burst and a rate, and repeats an Event only after ten minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

from percale.agent.problems import Problems
from percale.errors import PercaleError, StoreUnavailable
from percale.model.event import Event, EventSource, ObjectReference
from percale.model.meta import ObjectKey, ObjectMeta, timestamp
from percale.store.protocol import Store

TTL = 3600.0
"""Seconds."""
_INTERVAL = 5.0
"""Seconds between two Events after a burst."""
_BURST = 10
_MOST_PENDING = 100
"""Of a namespace: others are dropped."""
_REPEAT_AFTER = 600.0
"""Seconds until the same Event is sent again."""
_RETRY = 30.0
"""Seconds until a store that is away is tried again."""
_LONGEST_MESSAGE = 1024
"""Characters: the API server's limit."""
_LONGEST_NAME = 200
_SOURCE = "events"


class InvolvedObject(NamedTuple):
    """The object that an Event or a part of a table is about; `kind` as in the API."""

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
        self._pending: dict[str | None, dict[tuple[InvolvedObject, str], str]] = {}
        """By namespace: each in its turn, so that nobody's objects crowd out the Events of others."""
        self._sent: dict[tuple[InvolvedObject, str], tuple[float, Event]] = {}
        self._due = asyncio.Event()

    def warn(self, involved: InvolvedObject, reason: str, message: str) -> None:
        """Queue a Warning. Returns at once."""
        which = (involved, reason)
        sent = self._sent.get(which)
        if (
            sent is not None
            and sent[1].message == message[:_LONGEST_MESSAGE]
            and self._clock() - sent[0] < _REPEAT_AFTER
        ):
            return
        pending = self._pending.setdefault(involved.key.namespace, {})
        if which in pending or len(pending) < _MOST_PENDING:
            pending[which] = message
            self._due.set()

    def warn_node(self, reason: str, message: str) -> None:
        """About this node as a whole."""
        self.warn(InvolvedObject("Node", ObjectKey(None, self._node)), reason, message)

    async def run(self) -> None:
        """Runs until cancelled. An Event waits for a store that is away; one that the store rejects is dropped."""
        loop = asyncio.get_running_loop()
        window_start, sent = loop.time(), 0
        while True:
            await self._due.wait()
            if loop.time() - window_start > _BURST * _INTERVAL:
                window_start, sent = loop.time(), 0
            if sent >= _BURST:
                await asyncio.sleep(_INTERVAL)
            sent += 1
            which, message = self._next()
            if not self._pending:
                self._due.clear()
            try:
                await self._send(*which, message[:_LONGEST_MESSAGE])
            except StoreUnavailable as error:
                self._problems.record(_SOURCE, error)
                self._pending.setdefault(which[0].key.namespace, {}).setdefault(which, message)
                self._due.set()
                await asyncio.sleep(_RETRY)

    def _next(self) -> tuple[tuple[InvolvedObject, str], str]:
        namespace = next(iter(self._pending))
        pending = self._pending.pop(namespace)
        which = next(iter(pending))
        message = pending.pop(which)
        if pending:
            self._pending[namespace] = pending  # now the last one
        return which, message

    async def _send(self, involved: InvolvedObject, reason: str, message: str) -> None:
        """Raises StoreUnavailable."""
        now = self._clock()
        self._sent = {which: sent for which, sent in self._sent.items() if now - sent[0] < TTL}
        stamp = timestamp(datetime.fromtimestamp(now, UTC))
        before = self._sent.get((involved, reason))
        kind, key = involved
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
        try:
            await self._store.put(event, ttl=TTL)
        except StoreUnavailable:
            raise
        except PercaleError as error:
            self._problems.record(_SOURCE, error)
        self._sent[involved, reason] = now, event


def _digest(*words: str) -> str:
    return blake2b("/".join(words).encode(), digest_size=8).hexdigest()
