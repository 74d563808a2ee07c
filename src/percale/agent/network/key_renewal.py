"""Gives this node another WireGuard key when somebody removes the one on disk: a rotation without a restart.

    private.key is gone ─▶ another one ─▶ kernel ─▶ lease ─▶ peers replace the old one, and begin handshakes at once

The kernel has it before the lease says it, so that a peer's handshake finds it. Between the two, packets of peers are lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from percale.agent.informer import STORE
from percale.agent.logging import Log
from percale.agent.problems import Problems
from percale.errors import StateError

KEY = "wireguard key"
"""The problem's source."""
INTERVAL = 5.0
"""Seconds between two looks at the file."""


class KeyRenewal:
    """All methods are called on the event loop."""

    def __init__(
        self, renew: Callable[[], bool], on_renewed: Callable[[], Awaitable[None]], *, log: Log, problems: Problems
    ) -> None:
        """`renew` is the backend's `key_renewal`."""
        self._renew = renew
        self._on_renewed = on_renewed
        self._log = log
        self._problems = problems

    async def run(self) -> None:
        """Runs until cancelled. While the store is away the key stays: nobody would learn of another one."""
        while True:
            await asyncio.sleep(INTERVAL)
            if STORE in self._problems.current:
                continue
            try:
                renewed = await asyncio.to_thread(self._renew)
            except StateError as error:
                self._problems.raise_(KEY, error)
                continue
            self._problems.clear(KEY)
            if renewed:
                self._log.info("wireguard key renewed")
                await self._on_renewed()
