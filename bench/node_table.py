"""An agent's policies and Services from decoded objects into a real table, in a network namespace of their own.

ScriptedStore (a fake store of given events) ─▶ PolicyController, ServiceProxier ─▶ NodeTable ─▶ KernelNftTable ─▶ the kernel
                                                                                     └─ CommitMarker
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
from percale.agent.problems import Problems
from percale.agent.table_sections import SERVICE_BYTES, NodeTable
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables.table import KernelNftTable
from percale.model.meta import Object, ObjectKey
from percale.render.nft.objects import Transaction
from percale.render.service import base_chains as service_base
from percale.store.memory import MemoryStore
from percale.store.protocol import Event, Snapshot

T = TypeVar("T", bound=Object)


class ScriptedStore:
    """A store for one watcher: a snapshot of these objects, then the events given to `send`."""

    hosts: Sequence[str] = ()

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def send(self, event: Event) -> None:
        """Deliver the next event."""
        self._events.put_nowait(event)

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        """The snapshot, then events."""
        yield Snapshot({kind: [obj for obj in self._objects if isinstance(obj, kind)] for kind in kinds})
        while True:
            yield await self._events.get()

    async def list(self, kind: type[T]) -> list[T]:
        """Unused."""
        raise NotImplementedError

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """Unused."""
        raise NotImplementedError

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        """Unused."""
        raise NotImplementedError

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        """Unused."""
        raise NotImplementedError

    async def close(self) -> None:
        """Holds no resources."""


class CommitMarker:
    """An empty table section that is notified when the other sections are committed."""

    synced = True

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def changes(self) -> Transaction:
        """Empty."""
        return Transaction()

    def snapshot(self) -> Transaction:
        """Empty."""
        return Transaction()

    def involved_objects(self, part: Transaction) -> tuple[InvolvedObject, ...]:
        """None."""
        return ()

    async def committed(self, *, changed: bool) -> None:
        """The others' changes are in the kernel."""
        self.done.set()


class TableBench:
    """A NodeTable in a new network namespace."""

    def __init__(self, *, services: bool = False) -> None:
        self.namespace = anonymous_namespace()
        self.problems = Problems(LineLog(stream=sys.stderr))
        self.events = Events("n1", MemoryStore(), self.problems)
        thread = NetnsThread(self.namespace)
        if services:
            nft_table = KernelNftTable(thread, spec=service_base.TABLE_SPEC, most_bytes=SERVICE_BYTES)
        else:
            nft_table = KernelNftTable(thread)
        self.table = NodeTable(nft_table, self.problems, self.events)
        self.marker = CommitMarker()

    @contextlib.asynccontextmanager
    async def running(self, *parts: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[float]:
        """Run these components; yields the seconds until their state is committed."""
        self.table.add(self.marker)
        gc.collect()
        gc.set_threshold(GC_THRESHOLD)  # as in an agent's process
        async with asyncio.TaskGroup() as group:
            start = time.perf_counter()
            tasks = [group.create_task(part()) for part in (self.table.run, *parts)]
            await self.marker.done.wait()
            took = time.perf_counter() - start
            gc.collect()
            gc.freeze()
            yield took
            gc.unfreeze()
            for task in tasks:
                task.cancel()
        os.close(self.namespace)

    async def change(self, store: ScriptedStore, event: Event) -> float:
        """Milliseconds from the event to the commit."""
        self.marker.done.clear()
        start = time.perf_counter()
        store.send(event)
        await self.marker.done.wait()
        return (time.perf_counter() - start) * 1000
