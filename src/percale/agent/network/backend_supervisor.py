"""Keeps the process of a backend running and configured; a backend that needs none has no such task.

node, leases ─▶ request_sync() ─▶ BackendProcess.ensure ─▶ check, at its interval ─▶ Problems
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from percale.agent.problems import Problems
from percale.backend.protocol import BackendProcess, LocalNode
from percale.errors import PercaleError
from percale.model.subnet_lease import SubnetLease

BACKEND = "backend"
"""The problem's source."""


class BackendSupervisor:
    """All methods are called on the event loop."""

    def __init__(
        self,
        process: BackendProcess,
        node: Callable[[], LocalNode],
        leases: Callable[[], Sequence[SubnetLease]],
        problems: Problems,
        *,
        on_checked: Callable[[], None] = lambda: None,
    ) -> None:
        """`node` and `leases` return the current node and the leases of its peers; `on_checked` is called after each check."""
        self._process = process
        self._node = node
        self._leases = leases
        self._problems = problems
        self._on_checked = on_checked
        self._changed = asyncio.Event()

    def request_sync(self) -> None:
        """Node or peers have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled, which leaves the process alone."""
        while True:
            self._changed.clear()
            try:
                await self._process.ensure(self._node(), self._leases())
                await self._process.check()
            except PercaleError as error:
                self._problems.raise_(BACKEND, error)
            else:
                self._problems.clear(BACKEND)
            self._on_checked()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._process.interval):
                    await self._changed.wait()
