"""The tables `ip`, `ip6` and `bridge percale`: pods' guards, tunnels, masquerading. A part of each is declared by source.

    NodeNetwork ─▶ declare("node") ─────┐
    Peers ───────▶ declare("peer/…") ───┼─▶ NetworkTable ─▶ NodeTable ─▶ KernelNftTable, once per family
    Attachments ─▶ declare("pod/…") ────┘

A pod's ADD waits for its elements before the pod's side is set up, and until then the guards drop all that comes from its device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from percale.agent.events import Events, InvolvedObject
from percale.agent.problems import Problems
from percale.agent.table_sections import NodeTable
from percale.kernel.nftables.table import NftTable
from percale.render.network.elements import DeclaredElements, Element
from percale.render.nft.objects import TableSpec, Transaction

PATIENCE_FOR_PEERS = 2.0
"""Seconds, as for what an ADD's pod is: a store that is away keeps no pod from starting."""


class NetworkTable:
    """One of them: see `TableSection`."""

    def __init__(self, spec: TableSpec, kernel_table: NftTable, problems: Problems, events: Events) -> None:
        self.synced = False
        self.elements = DeclaredElements(spec.sets)
        self.table = NodeTable(kernel_table, problems, events, spec.name, keep_stale=True)
        self.table.add(self)

    def changes(self) -> Transaction:
        return self.elements.changes()

    def snapshot(self) -> Transaction:
        return self.elements.snapshot()

    def involved_objects(self, _part: Transaction) -> Iterable[InvolvedObject]:
        """None: a rejected part is a problem of the table."""
        return ()

    async def committed(self, *, changed: bool) -> None:
        """Those who declare wait for `NodeTable.flush`."""


class NetworkTables:
    """All methods are called on the event loop."""

    def __init__(
        self, specs: Iterable[TableSpec], problems: Problems, events: Events, make: Callable[[TableSpec], NftTable]
    ) -> None:
        self._tables = {spec.name.family: NetworkTable(spec, make(spec), problems, events) for spec in specs}

    def declare(self, source: str, elements: Iterable[Element]) -> None:
        """Replace all elements of `source`; () withdraws them. Applied soon. Raises ValueError for one that no set can hold."""
        declared = list(elements)
        for family, each in self._tables.items():
            if each.elements.declare(source, [element for element in declared if element.family == family]):
                each.table.request_sync()

    def start(self) -> None:
        """The node and the pods of previous runs have declared theirs: the tables may be loaded."""
        for each in self._tables.values():
            each.synced = True
            each.table.request_sync()

    async def start_after(self, peers_declared: asyncio.Event) -> None:
        """The same once all peers have declared theirs: tables without them drop what they send. Not for ever: ADDs wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_FOR_PEERS):
                await peers_declared.wait()
        self.start()

    async def wait_loaded(self) -> None:
        """Wait until the kernel has held all tables as declared."""
        for each in self._tables.values():
            await each.table.applied.wait()

    def start_garbage_collection(self) -> None:
        """All sources have synced: from now on undeclared elements are removed."""
        for each in self._tables.values():
            each.table.start_garbage_collection()

    async def wait_applied(self, source: str) -> None:
        """Wait until the kernel holds all that is declared. Raises KernelError if it rejects something of `source`."""
        for each in self._tables.values():
            await each.table.flush()
            for part, error in each.table.refused:
                if any(each.elements.holds(source, elements) for elements in part.put):
                    raise error

    async def run(self) -> None:
        """Runs until cancelled, which leaves the tables in place. Raises KernelError."""
        async with asyncio.TaskGroup() as tasks:
            for each in self._tables.values():
                tasks.create_task(each.table.run(), name=each.table.source)
