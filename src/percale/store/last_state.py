"""What a server's store has said, on disk: an agent that starts while the store is away comes up from it.

    KindCache ── what changes ─▶ ObjectLog ── gathered, written by one thread ─▶ DIRECTORY/KIND
    KindCache ◀── at the start ── ObjectLog

Opened by the agent, and used by every store that is a server. docs/decisions/0023-last-state-on-disk.md says why it is so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from percale.errors import StateError, StoreUnavailable
from percale.event_loop import WorkerThread
from percale.model.meta import Object
from percale.store.object_log import ObjectLog
from percale.store.protocol import ReadProblem

T = TypeVar("T")

SOURCE = "last state"
"""Of the problem that the objects come from disk."""
_WRITING = "last state on disk"
_DELAY = 0.1
"""Seconds in which changes are gathered: an agent that is killed loses them."""
_RETRY = 30.0
"""Seconds until a directory that could not be written is tried again."""


class LastState:
    """Of one store, in a directory of its own. All methods are called on the event loop."""

    def __init__(self, directory: Path, address: str) -> None:
        """What was written for another address is not used."""
        self._directory = directory
        self._store = blake2b(address.encode(), digest_size=16).digest()
        self._thread = WorkerThread("last state")
        self._due: dict[ObjectLog, None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failed = False
        self.on_problem: Callable[[ReadProblem], None] = lambda problem: None

    def log(self, kind: type[Object]) -> ObjectLog:
        """Only one watch at a time may have it."""
        return ObjectLog(self._directory / kind.KIND, kind, self._store, self._schedule)

    async def run(self, work: Callable[[], T]) -> T:
        """In the thread that reads and writes."""
        return await self._thread.run(work)

    def restored(self, kinds: Iterable[type[Object]]) -> ReadProblem:
        """The objects of these kinds come from here, for the store is away."""
        changed = max(map(self._changed, kinds), default=0.0)
        when = datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        what = f"the store is away: what it said to the agent before is in force, with the last change at {when}"
        return ReadProblem(SOURCE, StoreUnavailable(what, where=str(self._directory)), complete=True)

    async def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        if self._writing is not None:
            await self._writing
        await self._write()
        self._thread.close()

    def _changed(self, kind: type[Object]) -> float:
        try:
            return (self._directory / kind.KIND).stat().st_mtime
        except OSError:
            return 0.0

    def _schedule(self, log: ObjectLog) -> None:
        self._due[log] = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_soon(), name="last state")

    async def _write_soon(self) -> None:
        while self._due and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _RETRY if self._failed else _DELAY)
            await self._write()

    async def _write(self) -> None:
        due, self._due = self._due, {}
        try:
            for log in due:
                whole, entries = log.take()
                if whole or entries:
                    await self.run(partial(log.write, entries, whole=whole))
        except OSError as error:
            self._due = due | self._due
            self._failed = True
            problem = StateError(
                f"cannot be written: {error.strerror}",
                where=str(self._directory),
                hint="make room or correct its rights: until then, an agent that starts waits for the store",
            )
            self.on_problem(ReadProblem(_WRITING, problem, complete=True))
            return
        if self._failed:
            self._failed = False
            self.on_problem(ReadProblem(_WRITING, None))
