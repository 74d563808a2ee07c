"""A table of this node: merges table sections and applies them in one transaction at a time.

    PolicyController ──┐ changes(), snapshot()
                       ├─▶ NodeTable ─▶ KernelNftTable ─▶ table inet percale
    HostPorts ─────────┘      ▲
    foreign change ───────────┘ full sync
    ServiceProxier ─────▶ NodeTable ─▶ KernelNftTable ─▶ table inet percale-services
    NetworkTables ──────▶ NodeTable ─▶ KernelNftTable ─▶ tables ip, ip6 and bridge percale

Each table has its own thread and socket: neither pods nor policies wait for Services. Changes that arrive
during a commit are merged into the next transaction. Fail closed: what a previous run left in the kernel stays in effect until
every section has synced with the store. A transaction that the kernel rejects is retried as a full sync; parts of it that the
kernel rejects again are left out, reported as problems of the objects they belong to, and retried after a while.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from percale.agent.events import Events, InvolvedObject
from percale.agent.problems import Problems
from percale.agent.repairs import Repairs
from percale.backoff import Backoff
from percale.errors import KernelError
from percale.kernel.cleanup import remove_service_table
from percale.kernel.nftables.portions import Refused
from percale.kernel.nftables.table import NftTable
from percale.render.nft.objects import POLICY_TABLE, TableName, Transaction
from percale.render.service import base_chains as service_base

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds until a rejected transaction is retried; doubled each time."""
_FIRST_RETRY, _LONGEST_RETRY = 5.0, 300.0
"""The same for rejected parts: only a change of the object or of the kernel makes them acceptable."""

SERVICE_BYTES = 2 * 1024 * 1024
"""Limit of one transaction of Services, some 30,000 elements: a policy's waits for its commit, 0.1 s."""


class TableSection(Protocol):
    """Owner of a part of the table. All methods are called on the event loop."""

    @property
    def synced(self) -> bool:
        """It has received the store's first snapshot: its own snapshot is complete."""

    def changes(self) -> Transaction:
        """What has changed since the last call."""

    def snapshot(self) -> Transaction:
        """Its whole part, as of the last `changes`."""

    def involved_objects(self, part: Transaction) -> Iterable[InvolvedObject]:
        """The objects that this part of the table belongs to; none if it is another section's."""

    async def committed(self, *, changed: bool) -> None:
        """The kernel holds the last `changes`. `changed`: the transaction was not empty."""


class NodeTable:
    """All methods are called on the event loop."""

    def __init__(
        self,
        kernel_table: NftTable,
        problems: Problems,
        events: Events,
        name: TableName = POLICY_TABLE,
        *,
        keep_stale: bool = False,
    ) -> None:
        """With `keep_stale` no element of a previous run is removed before `start_garbage_collection`."""
        self.source = f"table {name}"
        """The source of its problems."""
        self.applied = asyncio.Event()
        """Set once the kernel has held the state of all sections."""
        self.attempted = asyncio.Event()
        """Set after the first attempt."""
        self._kernel_table = kernel_table
        self._problems = problems
        self._events = events
        self._sections: list[TableSection] = []
        self._full_sync = True
        self._first = True
        """No changes taken yet: the first `changes` of a section equal its snapshot."""
        self._keep_stale = keep_stale
        self._requested = self._committed = 0
        """Requests so far, and how many of them the kernel holds."""
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        """What was requested when they began to wait."""
        self._rejected: dict[str, KernelError] = {}
        """What the kernel rejects, by problem source."""
        self._backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        self._retry: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._foreign_change = False
        self._repairs = Repairs(events)
        kernel_table.on_foreign_change(self._on_foreign_change)

    def add(self, section: TableSection) -> None:
        """Before `run`."""
        self._sections.append(section)

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        """Call back when another process has changed the table."""
        self._kernel_table.on_foreign_change(callback)

    def request_sync(self) -> None:
        """A section has changes."""
        self._requested += 1
        self._due.set()

    def start_garbage_collection(self) -> None:
        """The sections are complete: from now on other elements are removed."""
        self._keep_stale = False
        self._request_full_sync()

    async def flush(self) -> None:
        """Wait until the kernel holds all changes so far, but for those in `refused`. Raises KernelError."""
        if self._committed < self._requested:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((self._requested, done))
            await done

    @property
    def refused(self) -> Sequence[Refused]:
        """What the kernel rejects at present."""
        return self._kernel_table.refused

    async def prune(self, valid: Mapping[str, Collection[bytes]]) -> int:
        """Delete elements of maps filled by packets that lead elsewhere than to these; returns how many. Raises KernelError."""
        return await self._kernel_table.prune(valid)

    async def run(self) -> None:
        """Runs until cancelled, which leaves the table in place. Raises KernelError."""
        await self._kernel_table.start()
        try:
            backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
            while True:
                await self._due.wait()
                self._due.clear()
                if not all(section.synced for section in self._sections):
                    continue
                requested, full_sync = self._requested, self._full_sync
                try:
                    changed = await self._sync()
                except KernelError as error:
                    self._problems.raise_(self.source, error)
                    if full_sync:  # else it may be a part that the full sync leaves out
                        self._wake(requested, error)
                    self.attempted.set()
                    await asyncio.sleep(backoff.next())
                    self._request_full_sync()
                    continue
                backoff.reset()
                self._problems.clear(self.source)
                self.attempted.set()
                self.applied.set()
                self._committed = requested
                self._wake(requested)
                for section in self._sections:
                    await section.committed(changed=changed)
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._kernel_table.stop()

    def _wake(self, requested: int, error: KernelError | None = None) -> None:
        waiters, self._waiters = self._waiters, []
        for target, done in waiters:
            if target > requested:
                self._waiters.append((target, done))
            elif not done.done() and error is not None:
                done.set_exception(error)
            elif not done.done():
                done.set_result(None)

    def _request_full_sync(self) -> None:
        """Compare the whole table: at the start, and after a foreign change."""
        self._full_sync = True
        self.request_sync()

    def _on_foreign_change(self) -> None:
        self._foreign_change = True
        self._request_full_sync()

    async def _sync(self) -> bool:
        """Whether the kernel's table was changed. A transaction that is too large is split by the full sync."""
        transaction = merge_transactions(section.changes() for section in self._sections)
        if not self._full_sync:
            try:
                if transaction:
                    await self._kernel_table.apply(transaction)
                return bool(transaction)
            except KernelError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
        self._full_sync = False
        foreign, self._foreign_change = self._foreign_change, False
        snapshot = transaction if self._first else merge_transactions(section.snapshot() for section in self._sections)
        self._first = False
        transaction = await self._kernel_table.sync(snapshot, keep_stale=self._keep_stale)
        self._report_rejected(self._kernel_table.refused)
        if foreign and transaction:
            self._repairs.count(self.source)
        return bool(transaction)

    def _report_rejected(self, rejected: Collection[Refused]) -> None:
        """Raise a problem for each object with a rejected part; all are retried after a pause."""
        before, self._rejected = self._rejected, {}
        for part, error in rejected:
            involved_objects = sorted(
                {involved for section in self._sections for involved in section.involved_objects(part)}
            )
            for involved in involved_objects:
                self._events.warn(involved, "KernelRefused", str(error))
            for source in [*map(str, involved_objects)] or [self.source]:
                self._rejected.setdefault(f"kernel: {source}", error)
        for source in before.keys() - self._rejected.keys():
            self._problems.clear(source)
        for source, error in self._rejected.items():
            self._problems.raise_(source, error)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if rejected:
            self._retry = asyncio.get_running_loop().call_later(self._backoff.next(), self._request_full_sync)
        else:
            self._backoff.reset()


async def delete_service_table() -> None:
    """Delete the table of Services that a previous run left. Raises KernelError."""
    try:
        await asyncio.to_thread(remove_service_table)
    except OSError as error:
        where = f"table {service_base.TABLE}"
        raise KernelError.from_os(error, where=where) from error


def merge_transactions(transactions: Iterable[Transaction]) -> Transaction:
    """One transaction from several sections, which share no set and no chain."""
    parts = list(transactions)
    return Transaction(
        put_sets=tuple(each for part in parts for each in part.put_sets),
        remove=tuple(each for part in parts for each in part.remove),
        put_chains=tuple(each for part in parts for each in part.put_chains),
        put=tuple(each for part in parts for each in part.put),
        remove_chains=tuple(each for part in parts for each in part.remove_chains),
        remove_sets=tuple(each for part in parts for each in part.remove_sets),
    )
