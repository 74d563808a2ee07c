"""The agent's process: one per node, until a signal. Callers: cli/agent.py; the lab, in a forked child.

Nothing is undone at the end: pods go on reaching each other, and the next agent finds its node as this one left it.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.logging import LineLog
from percale.agent.node_agent import AgentNode
from percale.agent.pid_file import only_agent
from percale.agent.policy_only_agent import PolicyNode
from percale.agent.systemd import notify
from percale.errors import PercaleError
from percale.kernel import syscalls

MOST_YOUNG = 50_000
"""Objects between two looks for cycles: what an agent makes many of, facts and elements, has none."""


def run(config: AgentConfig) -> None:
    """Serve the node until SIGTERM or SIGINT. Raises PercaleError when that is impossible."""
    gc.set_threshold(MOST_YOUNG)
    syscalls.share_memory_arena()
    log = LineLog(config.logFormat)
    with only_agent(Path(config.runDir)):
        asyncio.run(_serve(config, log))


async def _serve(config: AgentConfig, log: LineLog) -> None:
    main = asyncio.current_task()
    assert main is not None
    told: list[str] = []

    def end(name: str) -> None:
        if not told:
            log.info("stopping", signal=name)
            notify("STOPPING=1")
            main.cancel()
        told.append(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    log.info("starting", node=config.node, store=config.store)
    try:
        node = PolicyNode(config, log) if config.backend == "none" else AgentNode(config, log)
        await node.run()
    except asyncio.CancelledError:
        if not told:
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended the duties: the error for the user when there is one among them."""
    flat = list(_flat(group))
    return next((error for error in flat if isinstance(error, PercaleError)), flat[0])


def _flat(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
