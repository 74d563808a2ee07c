"""Keeps the shortcut past the rules (`render/network/fastpath.py`) in step with pods and peers, behind all else.

    a pod or peer came or went ─▶ touch ─▶ gathered after a breath ─▶ text ─▶ one `nft -f`, on a worker thread
    flows were cut ─────────────▶ forget: they take the long way again, and meet the rules

It is an optimisation: nothing waits for it, and a kernel that cannot do it is told of once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from percale.agent.logging import Log
from percale.kernel.nftables.static_tables import run_nft
from percale.render.network import fastpath as shortcut
from percale.render.network.fastpath import Shortcuts
from percale.render.objects import OWNER

_GATHER = 0.05
"""Seconds that changes wait for more of them."""
_REST = 20
"""After a load, so many times its duration are left to other work: it holds every pod and peer of the node."""


class Fastpath:
    """All methods are called on the event loop."""

    def __init__(
        self, gather: Callable[[], Shortcuts], *, narrate: Callable[[str], None] | None, log: Log, enabled: bool
    ) -> None:
        self._gather = gather
        self._narrate = narrate
        self._log = log
        self._enabled = enabled
        self._due = asyncio.Event()
        self._loaded = ""
        self._lock = asyncio.Lock()

    def request_sync(self) -> None:
        """Pods or peers are others now."""
        self._due.set()

    def reload(self) -> None:
        """Somebody else has removed the table, or may have."""
        self._loaded = ""
        self._due.set()

    async def run(self) -> None:
        """Until the kernel says that it cannot; the end leaves the table in place. Disabled, it has none."""
        if not self._enabled:
            with suppress(OSError):
                await self._nft(shortcut.NONE)
        while self._enabled:
            await self._due.wait()
            await asyncio.sleep(_GATHER)
            self._due.clear()
            text = shortcut.text(self._gather())
            if text == self._loaded:
                continue
            begun = asyncio.get_running_loop().time()
            try:
                await self._nft(text)
            except OSError as error:
                self._enabled = False
                self._loaded = ""
                self._log.warn("no shortcut for established flows", error=error.strerror or str(error))
                return
            self._loaded = text
            await asyncio.sleep(_REST * (asyncio.get_running_loop().time() - begun))

    async def flush(self) -> None:
        """No flow is known any more: each meets the rules with its next packet."""
        if self._loaded:
            try:
                await self._nft("".join(f"flush set netdev {OWNER} {name}\n" for name in shortcut.SETS))
            except OSError:
                self.request_sync()  # somebody removed the table
                self._loaded = ""

    async def _nft(self, commands: str) -> None:
        async with self._lock:
            if self._narrate is not None:
                self._narrate(f"nft -f - <<'END'\n{commands}END")
            await asyncio.to_thread(run_nft, commands, deque(maxlen=1))
