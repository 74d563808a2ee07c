"""Dependencies shared by all parts of the agent: store, kernel, problems, metrics and the HTTP server."""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.events import Events, InvolvedObject
from percale.agent.http.listener import listen, wait_for_connection
from percale.agent.informer import Informer
from percale.agent.logging import LineLog
from percale.agent.metrics import Metrics
from percale.agent.problems import Problems
from percale.agent.repairs import Repairs
from percale.agent.reporter import StatusReporter
from percale.agent.state import LAST_STATE
from percale.agent.systemd import PROBLEM_STATUS, notify
from percale.counted import counted
from percale.errors import KernelError
from percale.kernel.commands import format_object
from percale.kernel.nftables.event_subscriptions import EventSubscriptions
from percale.kernel.nftables.table import KernelNftTable
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.render.nft.objects import TableSpec
from percale.store.registry import open_store

_LONGEST_STATUS = 500
"""Characters."""


class AgentContext:
    """One per process."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises KernelError, BadConfig."""
        self.config = config
        self.log = log
        self.log_command = log.command if config.verbose else None
        self.problems = Problems(log)
        self.problems.on_change = self._notify_status
        self._summary: str | None = None
        self.metrics = Metrics()
        self.store = open_store(config.store, last_state=Path(config.stateDir) / LAST_STATE)
        self.informer = Informer(self.store, self.problems)
        self.events = Events(config.node, self.store, self.problems)
        self.informer.on_invalid = lambda kind, key, error: self.events.warn(
            InvolvedObject(kind.KIND, key), "Invalid", str(error)
        )
        self.subscriptions = EventSubscriptions()
        self._repairs = Repairs(self.events)
        self.reconciler = Reconciler(
            _driver(self.log_command),
            on_problem=self._rejected,
            on_restored=lambda restored: self._repairs.count(format_object(restored)),
            on_batch=self.metrics.batch_applied,
        )
        self._rejection_callbacks: list[Callable[[str], None]] = []
        self._started_at = time.monotonic()

    def on_rejected(self, callback: Callable[[str], None]) -> None:
        """Call back with the source of each object that the kernel rejects."""
        self._rejection_callbacks.append(callback)

    def _rejected(self, source: str, error: KernelError) -> None:
        """The reconciler retries."""
        self.problems.record(f"kernel {source}", error)
        for callback in self._rejection_callbacks:
            callback(source)

    def nft_table(self, spec: TableSpec, *, most_bytes: int | None = None) -> KernelNftTable:
        """One of the node's tables, in the kernel."""
        return KernelNftTable(
            log_command=self.log_command, spec=spec, most_bytes=most_bytes, subscriptions=self.subscriptions
        )

    @asynccontextmanager
    async def running(self, reporter: StatusReporter) -> AsyncIterator[tuple[AsyncExitStack, asyncio.TaskGroup]]:
        """Runs store, reconciler and HTTP server; yields a group for tasks and a stack of what to close after them."""
        http = self.config.http
        async with AsyncExitStack() as exit_stack:
            listener = exit_stack.enter_context(listen(http)) if http is not None else None
            exit_stack.push_async_callback(self.store.close)
            await self.reconciler.start()
            exit_stack.push_async_callback(self.reconciler.stop)
            async with asyncio.TaskGroup() as tasks:
                if listener is not None:
                    tasks.create_task(_serve_http(listener, reporter), name="http")
                tasks.create_task(self.events.run(), name="events")
                tasks.create_task(self.informer.run(), name="informer")
                yield exit_stack, tasks

    def announce_ready(self, summary: str) -> None:
        """Notify the log and systemd. Most objects that exist now are long-lived, so the garbage collector skips them."""
        gc.freeze()
        self.log.info("ready", seconds=f"{time.monotonic() - self._started_at:.3f}")
        self._summary = summary
        notify("READY=1", *self._status())

    def _status(self) -> tuple[str, ...]:
        """For systemd, in one line: the first problem, else the node once it is ready."""
        errors = [problem.error for problem in self.problems.current.values()]
        if errors:
            more = f" (and {counted(len(errors) - 1, 'more problem')})" if errors[1:] else ""
            return (PROBLEM_STATUS + " ".join(errors[0].split())[:_LONGEST_STATUS] + more,)
        return (f"STATUS={self._summary}",) if self._summary is not None else ()

    def _notify_status(self) -> None:
        if status := self._status():
            notify(*status)


async def _serve_http(listener: socket.socket, reporter: StatusReporter) -> None:
    await wait_for_connection(listener)
    server = await asyncio.to_thread(importlib.import_module, "percale.agent.http.server")
    await server.serve(listener, reporter)


def _driver(log_command: Callable[[str], None] | None) -> KernelDriver:
    try:
        return KernelDriver(log_command=log_command)
    except OSError as error:
        raise KernelError.from_os(error, where="opening netlink", hint="run as root") from error
