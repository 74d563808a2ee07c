"""The agent process: one per node, runs until a signal. Callers: cli/agent.py; the lab, in a forked child.

Shutdown keeps all kernel state: pods stay connected, and the next agent adopts what this one left.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.logging import LineLog
from percale.agent.node_agent import NodeAgent
from percale.agent.pid_file import single_agent
from percale.agent.systemd import notify
from percale.errors import PercaleError
from percale.kernel import syscalls

GC_THRESHOLD = 50_000
"""Allocations between two garbage collections: what an agent allocates most, facts and elements, has no cycles."""


def run(config: AgentConfig) -> None:
    """Serve the node until SIGTERM or SIGINT. Raises PercaleError when it cannot go on."""
    gc.set_threshold(GC_THRESHOLD)
    syscalls.share_memory_arena()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each Service may have a health check port
    log = LineLog(config.logFormat)
    with single_agent(Path(config.runDir)):
        asyncio.run(_serve(config, log))


async def _serve(config: AgentConfig, log: LineLog) -> None:
    main = asyncio.current_task()
    assert main is not None
    signals: list[str] = []

    def stop(name: str) -> None:
        if not signals:
            log.info("stopping", signal=name)
            notify("STOPPING=1")
            main.cancel()
        signals.append(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    log.info("starting", node=config.node, store=config.store)
    try:
        await NodeAgent(config, log).run()
    except asyncio.CancelledError:
        if not signals:
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the tasks; one meant for the user takes precedence."""
    flat = list(_flat(group))
    return next((error for error in flat if isinstance(error, PercaleError)), flat[0])


def _flat(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
