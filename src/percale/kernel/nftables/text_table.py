"""A table that `nft` loads as a whole: the fast path's, whose chains hang on devices that come and go with pods.

Its flows are filled by packets and expire by themselves, so that a reload costs them one packet on the slow path each.
Called by `agent/network/fastpath.py`; all other tables are `KernelNftTable`s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import closing

from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import CurrentNetns, NetnsExecutor
from percale.kernel.nftables.event_subscriptions import EventSubscriptions
from percale.kernel.nftables.messages import has_table, remove_table
from percale.kernel.nftables.nft_program import run_nft
from percale.kernel.nftables.table_monitor import TableMonitor
from percale.render.nft.objects import TableName


class TextTable:
    """All methods are called on the event loop; all coroutines raise OSError."""

    def __init__(
        self,
        name: TableName,
        *,
        log_command: Callable[[str], None] | None,
        subscriptions: EventSubscriptions,
        netns: NetnsExecutor | None = None,
    ) -> None:
        """In the namespace of `netns` (default: the process'), which `stop` closes."""
        self._netns = netns or CurrentNetns()
        self._name = name
        self._log_command = log_command
        self._monitor = TableMonitor(name, subscriptions)
        self._lock = asyncio.Lock()

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        """Call back after each change of the table, `load` included: `exists` shows whether it was a removal."""
        self._monitor.changes.subscribe(callback)

    async def start(self) -> None:
        """Subscribe to notifications. The table remains as it is."""
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: self._monitor.open(self._netns, loop))
        self._monitor.listen()

    async def load(self, body: str) -> None:
        """Create or replace the table by this content of its braces."""
        await self._nft(f"table {self._name}\ndelete table {self._name}\ntable {self._name} {{\n{body}\n}}\n")

    async def flush(self, sets: Iterable[str]) -> None:
        """Remove all elements of these sets."""
        await self._nft("".join(f"flush set {self._name} {name}\n" for name in sets))

    async def exists(self) -> bool:
        return await asyncio.to_thread(self._exists)

    async def remove(self) -> None:
        """Delete the table with all that it holds; that there is none is no error."""
        await asyncio.to_thread(self._remove)

    async def stop(self) -> None:
        """The table remains."""
        self._monitor.silence()
        await asyncio.to_thread(self._close)

    async def _nft(self, commands: str) -> None:
        async with self._lock:
            if self._log_command is not None:
                self._log_command(f"nft -f - <<'END'\n{commands}END")
            await asyncio.to_thread(self._netns.run, lambda: run_nft(commands))

    def _close(self) -> None:
        self._monitor.close()
        self._netns.close()

    def _exists(self) -> bool:
        with closing(self._netns.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
            return has_table(socket, self._name)

    def _remove(self) -> None:
        with closing(self._netns.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
            if remove_table(socket, self._name) and self._log_command is not None:
                self._log_command(f"nft 'delete table {self._name}'")
