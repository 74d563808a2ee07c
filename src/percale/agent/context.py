"""What an agent of either sort stands on: its store, its kernel, its problems and figures, and HTTP to tell of them.

`node_agent.py` and `policy_only_agent.py` build on it; `main.py` chooses between them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from percale.agent.config.settings import AgentConfig
from percale.agent.events import Events
from percale.agent.http.listener import asked, listening
from percale.agent.logging import LineLog
from percale.agent.metrics import MeasuredDriver, Metrics
from percale.agent.problems import Problems
from percale.agent.reporter import Report
from percale.agent.systemd import notify
from percale.errors import KernelError
from percale.kernel.nftables.commit import Hearing
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.store.registry import open_store


class Ground:
    """Made once per process."""

    def __init__(self, config: AgentConfig, log: LineLog, on_refused: Callable[[str, KernelError], None]) -> None:
        """`on_refused` gets the source whose object the kernel refused. Raises KernelError, BadConfig."""
        self.config = config
        self.log = log
        self.narrate = log.command if config.verbose else None
        self.problems = Problems(log)
        self.metrics = Metrics()
        self.store = open_store(config.store)
        self.events = Events(config.node, self.store, self.problems)
        self.hearing = Hearing()
        driver = _driver(self.narrate, self.hearing)
        self.reconciler = Reconciler(MeasuredDriver(driver, self.metrics), on_problem=on_refused)
        self._began = time.monotonic()

    @asynccontextmanager
    async def up(self, report: Report) -> AsyncIterator[tuple[AsyncExitStack, asyncio.TaskGroup]]:
        """Store, kernel and HTTP are there within this block: for duties, and for what is to go down after them."""
        http = self.config.http
        async with AsyncExitStack() as downs:
            listener = downs.enter_context(listening(http)) if http is not None else None
            downs.push_async_callback(self.store.close)
            await self.reconciler.start()
            downs.push_async_callback(self.reconciler.stop)
            async with asyncio.TaskGroup() as duties:
                if listener is not None:
                    duties.create_task(_serve_http(listener, report), name="http")
                duties.create_task(self.events.run(), name="events")
                yield downs, duties

    def say_ready(self, report: Report) -> None:
        """Everything is in place for the first time, and most of it will stay."""
        gc.freeze()
        self.log.info("ready", seconds=f"{time.monotonic() - self._began:.3f}")
        notify("READY=1", f"STATUS={report.summary()}")


async def _serve_http(listener: socket.socket, report: Report) -> None:
    await asked(listener)
    serving = await asyncio.to_thread(importlib.import_module, "percale.agent.http.server")
    await serving.serve(listener, report)


def _driver(narrate: Callable[[str], None] | None, hearing: Hearing) -> KernelDriver:
    try:
        return KernelDriver(narrate=narrate, hearing=hearing)
    except OSError as error:
        raise KernelError(
            error.strerror or str(error), errno=error.errno or 0, where="opening netlink", hint="run as root"
        ) from error
