"""An `NftTable` in memory: the public fake, for tests of the agent and of programs that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from percale.errors import KernelError
from percale.kernel.nftables.foreign_changes import ForeignChanges
from percale.kernel.nftables.portions import TAKES_NOTHING, Refused, apply_in_portions
from percale.render.nft.objects import TableSpec, Transaction
from percale.render.nft.table_state import TableState, diff
from percale.render.policy import base_chains as policy_base


class FakeNftTable:
    """`state` is the table, None when there is none; `transactions` are all that changed it, in order."""

    def __init__(
        self, spec: TableSpec = policy_base.TABLE_SPEC, chains: Iterable[str] = (policy_base.OWN_NODE,)
    ) -> None:
        """`chains` are those of the static text that transactions lead to."""
        self.state: TableState | None = None
        self.transactions: list[Transaction] = []
        self.remembered: dict[str, dict[bytes, bytes]] = {}
        """Elements that packets have put into maps with a timeout."""
        self.refused: Sequence[Refused] = ()
        self.refusals: list[KernelError] = []
        """The next changes fail with these errors."""
        self._bare = TableState.bare(spec.sets, chains, spec.name)
        self._foreign_changes = ForeignChanges()

    async def start(self) -> None:
        """Nothing to subscribe to."""

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        self._foreign_changes.subscribe(callback)

    async def sync(self, snapshot: Transaction, *, keep_stale: bool = False) -> Transaction:
        await asyncio.sleep(0)
        loaded = self.state is None
        state = self.state or self._bare
        missing = diff(state, snapshot, keep_stale=keep_stale)
        self.refused = ()
        if loaded or missing:
            try:
                self._change(state, missing)
            except KernelError as error:
                if error.errno in TAKES_NOTHING:
                    raise
                self.state = state
                specs = {name: each.spec for name, each in state.sets.items() if each.spec is not None}
                self.refused = apply_in_portions(missing, specs, self._make, policy_base.CLASS_MAPS)
        return snapshot if loaded else missing

    async def apply(self, transaction: Transaction) -> None:
        await asyncio.sleep(0)
        if transaction:
            self._change(self.state or TableState(), transaction)

    async def prune(self, valid: Mapping[str, Collection[bytes]]) -> int:
        await asyncio.sleep(0)
        count = 0
        for name, values in valid.items():
            known = self.remembered.get(name, {})
            gone = [key for key, value in known.items() if value not in values]
            count += len(gone)
            for key in gone:
                del known[key]
        return count

    async def remove(self) -> None:
        await asyncio.sleep(0)
        self.state = None

    async def stop(self) -> None:
        self._foreign_changes.cancel()

    def touch(self, transaction: Transaction | None) -> None:
        """A foreign change: this transaction, or the deletion of the table."""
        self.state = self.state.apply(transaction) if self.state is not None and transaction is not None else None
        self._foreign_changes.notify()

    def _make(self, transaction: Transaction) -> None:
        assert self.state is not None
        if transaction:
            self._change(self.state, transaction)

    def _change(self, state: TableState, transaction: Transaction) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.state = state.apply(transaction)
        self.transactions.append(transaction)
