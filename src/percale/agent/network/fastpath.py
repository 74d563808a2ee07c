"""Keeps the fast path (`render/network/fastpath.py`) in sync with pods and peers, at low priority.

    a pod or peer changed ─▶ request_sync ─▶ changes gathered ─▶ text ─▶ kernel/nftables/text_table
    flows were cut ────────▶ flush: they take the slow path again, and are filtered

It is an optimisation: nothing waits for it, and a kernel without support is reported once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from percale.agent.logging import Log
from percale.kernel.nftables.text_table import TextTable
from percale.render.network import fastpath
from percale.render.network.fastpath import FastpathConfig

_GATHER = 0.05
"""Seconds to wait for further changes."""
_PAUSE_FACTOR = 20
"""Pause after a load, as a multiple of its duration: it lists every pod and peer of the node."""
_LONGEST_PAUSE = 5.0
"""Seconds. On a busy machine a load takes long without much work."""


class Fastpath:
    """All methods are called on the event loop."""

    def __init__(self, table: TextTable, *, log: Log, enabled: bool) -> None:
        self._table = table
        self._log = log
        self._enabled = enabled
        self._due = asyncio.Event()
        self._loaded: str | None = None
        self._doubtful = False
        """Another process may have removed the table."""
        table.on_foreign_change(self._on_foreign_change)

    def request_sync(self) -> None:
        """Pods or peers changed."""
        self._due.set()

    def _on_foreign_change(self) -> None:
        self._doubtful = True
        self._due.set()

    async def run(self, gather: Callable[[], FastpathConfig]) -> None:
        """`gather` is called for each update. Runs until cancelled, which keeps the table, or until the kernel rejects it.

        Deletes the table if disabled.
        """
        if not self._enabled:
            with suppress(OSError):
                await self._table.remove()
            return
        try:
            await self._table.start()
            try:
                while True:
                    await self._sync(gather)
            finally:
                await self._table.stop()
        except OSError as error:
            self._loaded = None
            self._log.warn("no shortcut for established flows", error=error.strerror or str(error))

    async def _sync(self, gather: Callable[[], FastpathConfig]) -> None:
        """Wait for a change and load the table if its text is another, or if it is gone."""
        await self._due.wait()
        await asyncio.sleep(_GATHER)
        self._due.clear()
        doubtful, self._doubtful = self._doubtful, False
        if doubtful and not await self._table.exists():
            self._loaded = None
        text = fastpath.text(gather())
        if text == self._loaded:
            return
        started = asyncio.get_running_loop().time()
        try:
            await self._table.load(text)
        except OSError:
            if fastpath.text(gather()) == text:
                raise
            self._due.set()  # a device in it went meanwhile
            return
        self._loaded = text
        await asyncio.sleep(min(_PAUSE_FACTOR * (asyncio.get_running_loop().time() - started), _LONGEST_PAUSE))

    async def flush(self) -> None:
        """Remove all flows from the fast path: the rules see each one's next packet."""
        if self._loaded is not None:
            try:
                await self._table.flush(fastpath.SETS)
            except OSError:
                self._on_foreign_change()  # another process removed the table
