"""The agent's policies and services over decoded objects, into a real table in a namespace of their own. Used by rows.

Feed (a store that says what it is told) ─▶ PolicyController, ServiceProxier ─▶ NodeTable ─▶ KernelNftTable ─▶ the kernel
                                                                         └─ Witness: it is committed
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TypeVar

from percale.agent.events import Events, InvolvedObject
from percale.agent.logging import LineLog
from percale.agent.main import GC_THRESHOLD
from percale.agent.nft_table import SERVICE_BYTES, NodeTable
from percale.agent.problems import Problems
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables.table import KernelNftTable
from percale.model.meta import Object, ObjectKey
from percale.render.nft.objects import Transaction
from percale.render.service import base_chains as balancing
from percale.store.memory import MemoryStore
from percale.store.protocol import Event, Snapshot

T = TypeVar("T", bound=Object)


class Feed:
    """A store for one watcher: first these objects, then the events that it is told."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """The next event."""
        self._events.put_nowait(event)

    async def watch(self, *kinds: type[Object]) -> AsyncIterator[Event]:
        """The objects at once, then events."""
        yield Snapshot({kind: [obj for obj in self._objects if isinstance(obj, kind)] for kind in kinds})
        while True:
            yield await self._events.get()

    async def list(self, kind: type[T]) -> list[T]:
        """Never asked for."""
        raise NotImplementedError

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """Never asked for."""
        raise NotImplementedError

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Never asked for."""
        raise NotImplementedError

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Never asked for."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


class Witness:
    """An empty table section that is notified when the other sections are committed."""

    synced = True

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def changes(self) -> Transaction:
        """Nothing."""
        return Transaction()

    def snapshot(self) -> Transaction:
        """Nothing."""
        return Transaction()

    def involved_objects(self, part: Transaction) -> tuple[InvolvedObject, ...]:
        """It has no objects."""
        return ()

    async def committed(self, *, changed: bool) -> None:
        """The others' changes are in the kernel."""
        self.done.set()


class Bench:
    """One table with its keeper in a namespace that nobody else has."""

    def __init__(self, *, services: bool = False) -> None:
        self.namespace = anonymous_namespace()
        self.problems = Problems(LineLog(stream=sys.stderr))
        self.events = Events("n1", MemoryStore(), self.problems)
        place = NetnsThread(self.namespace)
        if services:
            nft_table = KernelNftTable(place, spec=balancing.TABLE_SPEC, most_bytes=SERVICE_BYTES)
        else:
            nft_table = KernelNftTable(place)
        self.table = NodeTable(nft_table, self.problems, self.events)
        self.witness = Witness()

    @contextlib.asynccontextmanager
    async def running(self, *parts: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[float]:
        """Seconds until what these parts' `run` declared was committed; they go on within this block."""
        self.table.add(self.witness)
        gc.collect()
        gc.set_threshold(GC_THRESHOLD)  # as in an agent's process
        async with asyncio.TaskGroup() as group:
            start = time.perf_counter()
            tasks = [group.create_task(part()) for part in (self.table.run, *parts)]
            await self.witness.done.wait()
            took = time.perf_counter() - start
            gc.collect()
            gc.freeze()
            yield took
            gc.unfreeze()
            for task in tasks:
                task.cancel()
        os.close(self.namespace)

    async def change(self, feed: Feed, event: Event) -> float:
        """Milliseconds from the event to the commit."""
        self.witness.done.clear()
        start = time.perf_counter()
        feed.tell(event)
        await self.witness.done.wait()
        return (time.perf_counter() - start) * 1000
