"""Keeps the fast path (`render/network/fastpath.py`) in sync with pods and peers, at low priority.

    a pod or peer changed ─▶ request_sync ─▶ changes gathered ─▶ text ─▶ one `nft -f`, on a worker thread
    flows were cut ────────▶ flush: they take the slow path again, and are filtered

It is an optimisation: nothing waits for it, and a kernel without support is reported once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from percale.agent.logging import Log
from percale.kernel.nftables.static_tables import run_nft
from percale.render.network import fastpath
from percale.render.network.fastpath import FastpathConfig
from percale.render.objects import OWNER

_GATHER = 0.05
"""Seconds to wait for further changes."""
_PAUSE_FACTOR = 20
"""Pause after a load, as a multiple of its duration: it lists every pod and peer of the node."""


class Fastpath:
    """All methods are called on the event loop."""

    def __init__(
        self,
        gather: Callable[[], FastpathConfig],
        *,
        log_command: Callable[[str], None] | None,
        log: Log,
        enabled: bool,
    ) -> None:
        self._gather = gather
        self._log_command = log_command
        self._log = log
        self._enabled = enabled
        self._due = asyncio.Event()
        self._loaded = ""
        self._lock = asyncio.Lock()

    def request_sync(self) -> None:
        """Pods or peers changed."""
        self._due.set()

    def reload(self) -> None:
        """Another process has removed the table, or may have."""
        self._loaded = ""
        self._due.set()

    async def run(self) -> None:
        """Runs until cancelled, which keeps the table, or until the kernel rejects it. Deletes the table if disabled."""
        if not self._enabled:
            with suppress(OSError):
                await self._nft(fastpath.NONE)
        while self._enabled:
            await self._due.wait()
            await asyncio.sleep(_GATHER)
            self._due.clear()
            text = fastpath.text(self._gather())
            if text == self._loaded:
                continue
            started = asyncio.get_running_loop().time()
            try:
                await self._nft(text)
            except OSError as error:
                self._enabled = False
                self._loaded = ""
                self._log.warn("no shortcut for established flows", error=error.strerror or str(error))
                return
            self._loaded = text
            await asyncio.sleep(_PAUSE_FACTOR * (asyncio.get_running_loop().time() - started))

    async def flush(self) -> None:
        """Remove all flows from the fast path: the rules see each one's next packet."""
        if self._loaded:
            try:
                await self._nft("".join(f"flush set netdev {OWNER} {name}\n" for name in fastpath.SETS))
            except OSError:
                self.request_sync()  # another process removed the table
                self._loaded = ""

    async def _nft(self, commands: str) -> None:
        async with self._lock:
            if self._log_command is not None:
                self._log_command(f"nft -f - <<'END'\n{commands}END")
            await asyncio.to_thread(run_nft, commands, deque(maxlen=1))
