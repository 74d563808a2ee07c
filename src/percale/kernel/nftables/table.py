"""Keeps a table of ours as declared: applies transactions atomically, and repairs foreign changes.

    agent, on its event loop ─▶ KernelNftTable ─▶ one worker thread ─┬─ apply ─▶ batch ─▶ nfnetlink: atomically
                                    ▲                                └─ sync ──▶ dump ─▶ diff ─▶ the same, or in portions
    the kernel's notifications ─────┘  of foreign changes

A sync that the kernel rejects as a whole is applied in parts (`portions.py`), without the parts that it rejects. The table of
a previous run is read at the start, while the sections are still reading the store.

The event loop never waits for the kernel. Called by `agent/table_sections.py`; `fake_table.py` is the public fake.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from percale.errors import KernelError
from percale.event_loop import WorkerThread
from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import CurrentNetns, NetnsExecutor, NetnsThread, anonymous_namespace
from percale.kernel.nftables.batch import BaseTable, Batch, encode_table, encode_transaction
from percale.kernel.nftables.dump import TableDump, read_elements, read_table
from percale.kernel.nftables.event_subscriptions import EventSubscriptions
from percale.kernel.nftables.messages import remove_table
from percale.kernel.nftables.nft_program import run_nft
from percale.kernel.nftables.portions import TAKES_NOTHING, Refused, apply_in_portions, closed, size_of
from percale.kernel.nftables.script import table_script, to_commands
from percale.kernel.nftables.table_monitor import TableMonitor
from percale.render.nft.objects import ElementBatch, SetSpec, TableSpec, Transaction
from percale.render.nft.table_state import TableState, diff
from percale.render.policy import base_chains as policy_base

T = TypeVar("T")


class NftTable(Protocol):
    """A table in one network namespace. All methods are called on the event loop."""

    async def start(self) -> None:
        """Subscribe to notifications. The table remains as it is. Raises KernelError."""

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        """Call back on the loop after each foreign change of the table."""

    @property
    def refused(self) -> Sequence[Refused]:
        """What the last `sync` had to leave out."""

    async def sync(self, snapshot: Transaction, *, keep_stale: bool = False) -> Transaction:
        """Make the table exactly the static text with this snapshot; returns what had to be changed.

        With `keep_stale` other elements remain: not all of the table's sections know yet what they want.
        What the kernel rejects of it is left out: see `refused`. Raises KernelError when nothing can be changed.
        """

    async def apply(self, transaction: Transaction) -> None:
        """Apply one transaction to the synced table, atomically. Raises KernelError."""

    async def prune(self, valid: Mapping[str, Collection[bytes]]) -> int:
        """Delete elements of packet-filled maps whose value is not valid; returns how many. Raises KernelError."""

    async def remove(self) -> None:
        """Delete the table with all that it holds; that there is none is no error. Raises KernelError."""

    async def stop(self) -> None:
        """Close threads and sockets; the table remains."""


class KernelNftTable:
    """An `NftTable` of the running kernel."""

    def __init__(
        self,
        netns: NetnsExecutor | None = None,
        *,
        log_command: Callable[[str], None] | None = None,
        spec: TableSpec = policy_base.TABLE_SPEC,
        most_bytes: int | None = None,
        subscriptions: EventSubscriptions | None = None,
    ) -> None:
        """In the namespace of `netns` (default: the process'), which `stop` closes.

        `log_command` gets each change's `nft` command before it is applied, on the worker thread. `most_bytes` limits a
        transaction, so that those of other tables get their turn. `subscriptions` is shared with the other tables of the
        same namespace.
        """
        subscriptions = subscriptions or EventSubscriptions()
        self._monitor = TableMonitor(spec.name, subscriptions)
        self._worker = _TableWorker(
            netns or CurrentNetns(),
            log_command=log_command,
            spec=spec,
            most_bytes=most_bytes or sys.maxsize,
            subscriptions=subscriptions,
            monitor=self._monitor,
        )
        self._thread = WorkerThread(f"table {spec.name}")

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        self._monitor.changes.subscribe(callback)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await self._thread.run(lambda: self._worker.open(loop))
        self._monitor.listen()
        self._thread.submit(self._worker.look_ahead)

    async def sync(self, snapshot: Transaction, *, keep_stale: bool = False) -> Transaction:
        return await self._thread.run(lambda: self._worker.sync(snapshot, keep_stale=keep_stale))

    @property
    def refused(self) -> Sequence[Refused]:
        return self._worker.refused

    async def apply(self, transaction: Transaction) -> None:
        await self._thread.run(lambda: self._worker.apply(transaction))

    async def prune(self, valid: Mapping[str, Collection[bytes]]) -> int:
        return await self._thread.run(lambda: sum(self._worker.prune(name, values) for name, values in valid.items()))

    async def remove(self) -> None:
        await self._thread.run(self._worker.remove)

    async def stop(self) -> None:
        self._monitor.silence()
        await self._thread.run(self._worker.close)
        self._thread.close()


class _TableWorker:
    """What runs on the worker thread."""

    def __init__(
        self,
        netns: NetnsExecutor,
        *,
        log_command: Callable[[str], None] | None,
        spec: TableSpec,
        most_bytes: int,
        subscriptions: EventSubscriptions,
        monitor: TableMonitor,
    ) -> None:
        self._netns = netns
        self._log_command = log_command
        self._table = spec.name
        self._static = spec.text
        self._filled = filled = {each.name: each for each in spec.sets}
        self._most_bytes = most_bytes
        self._subscriptions = subscriptions
        self._monitor = monitor
        self._specs = dict(filled)
        self._expected_base: BaseTable | None = None
        self._ahead: TableDump | None = None
        self.refused: Sequence[Refused] = ()
        self._socket: netlink.Socket | None = None
        """To read; a long dump does not delay commits."""
        self._commits: netlink.Socket | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._socket = self._netns.run(lambda: netlink.Socket(netlink.NETFILTER))
            self._commits = self._monitor.open(self._netns, loop)
        except OSError as error:
            raise self._failed(error) from error

    @staticmethod
    def _started(socket: netlink.Socket | None) -> netlink.Socket:
        assert socket is not None, "the table has not been started"
        return socket

    def close(self) -> None:
        self._monitor.close()
        if self._socket is not None:
            self._socket.close()
        self._netns.close()

    # Changes

    def apply(self, transaction: Transaction) -> None:
        if transaction:
            specs = self._specs
            self._commit(
                encode_transaction(transaction, specs, self._table),
                lambda: to_commands(transaction, specs, self._table),
            )
            for name in transaction.remove_sets:
                self._specs.pop(name, None)
            self._specs.update((spec.name, spec) for spec in transaction.put_sets)

    def _commit(self, batch: Batch, commands: Callable[[], Iterable[str]]) -> None:
        if (size := batch.size) > self._most_bytes:
            raise self._failed(OSError(errno.EMSGSIZE, f"{size} bytes are more than one transaction may have"))
        if self._log_command is not None:
            for command in commands():
                self._log_command(f"nft -f - <<'END'\n{command}END" if "\n" in command else f"nft '{command}'")
        try:
            failure = self._subscriptions.commit(self._started(self._commits), batch.requests)
        except OSError as error:
            raise self._failed(error) from error
        if failure is not None:
            part = batch.concerns[failure.position] if failure.position >= 0 else None
            raise self._failed(failure.error, part) from failure.error

    def look_ahead(self) -> None:
        """Read the table of a previous run ahead of `sync`, which reports a failure."""
        with contextlib.suppress(OSError):
            self._ahead = self._look(self._known_base())

    def sync(self, snapshot: Transaction, *, keep_stale: bool) -> Transaction:
        self.refused = ()
        try:
            expected_base = self._known_base()
            ahead, self._ahead = self._ahead, None
            table = ahead if ahead is not None and not self._monitor.touched else self._look(expected_base)
        except OSError as error:
            raise self._failed(error) from error
        if table is None or table.base != expected_base:
            if not self._takes(lambda: self._recreate(expected_base, snapshot), snapshot, self._filled):
                self._recreate_in_parts(expected_base, snapshot)
            return snapshot
        self._specs = {name: spec for name, (spec, _) in table.state.sets.items() if spec is not None}
        missing = diff(table.state, snapshot, keep_stale=keep_stale)
        if not self._takes(lambda: self.apply(missing), missing, self._specs):
            self._apply_in_parts(missing)
        return missing

    def _recreate_in_parts(self, expected_base: BaseTable, snapshot: Transaction) -> None:
        """Pods with policies are blocked until their chains are in place."""
        shut = closed(Transaction(put=snapshot.put), policy_base.CLASS_MAPS)
        self._recreate(expected_base, shut)
        bare = TableState.bare(self._filled.values(), expected_base.chains, self._table)
        self._apply_in_parts(diff(bare.apply(shut), snapshot) if shut else snapshot)

    def _apply_in_parts(self, change: Transaction) -> None:
        self.refused = apply_in_portions(change, self._specs, self.apply, policy_base.CLASS_MAPS)

    def _takes(self, make: Callable[[], None], transaction: Transaction, specs: Mapping[str, SetSpec]) -> bool:
        """Whether the kernel accepted the whole transaction. Raises KernelError when it would accept no other one either."""
        if size_of(transaction, specs) > self._most_bytes:
            return False
        try:
            make()
        except KernelError as error:
            if error.errno in TAKES_NOTHING:
                raise
            return False
        return True

    def _look(self, expected_base: BaseTable) -> TableDump | None:
        return read_table(self._started(self._socket), self._filled, expected_base, self._table)

    def _known_base(self) -> BaseTable:
        self._expected_base = self._expected_base or self._load_base()
        return self._expected_base

    def _recreate(self, expected_base: BaseTable, snapshot: Transaction) -> None:
        """The text with this snapshot in one batch, so that the old rules are replaced without a gap."""
        self._commit(
            encode_table(expected_base, snapshot, self._filled, self._table),
            lambda: [
                table_script(self._static, self._table),
                *to_commands(snapshot, self._filled, self._table),
            ],
        )
        self._specs = {**self._filled, **{spec.name: spec for spec in snapshot.put_sets}}

    def _load_base(self) -> BaseTable:
        """The kernel's form of the text: `nft` loads it in a separate namespace, where nothing else changes it."""
        namespace = anonymous_namespace()
        with contextlib.closing(NetnsThread(namespace, "expected-base")) as netns:
            os.close(namespace)
            netns.run(lambda: run_nft(table_script(self._static, self._table)))
            with contextlib.closing(netns.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
                table = read_table(socket, self._filled, table=self._table)
        assert table is not None
        bare = TableState.bare(self._filled.values(), table.base.chains, self._table)
        assert table.state == bare, "the text does not declare exactly the given sets"
        return table.base

    def prune(self, name: str, values: Collection[bytes]) -> int:
        """Prune one map. An element may expire before its deletion, which then fails as a whole: read again."""
        spec = self._specs.get(name)
        if spec is None:
            return 0
        while True:
            try:
                found = read_elements(self._started(self._socket), self._table, spec)
            except OSError as error:
                raise self._failed(error, f"set {name}") from error
            gone = b"".join(key for key, value in found.items() if value not in values)
            if not gone:
                return 0
            try:
                self._commit(
                    encode_transaction(Transaction(remove=(ElementBatch(name, gone),)), self._specs, self._table), tuple
                )
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                return len(gone) // spec.key_size

    def remove(self) -> None:
        try:
            remove_table(self._started(self._commits), self._table)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError, part: str | None = None) -> KernelError:
        where = f"table {self._table}" + (f", {part}" if part is not None else "")
        return KernelError.from_os(error, where=where)
