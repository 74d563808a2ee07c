"""The status of each node's agent, its peers, and why it is not ready. Called by `machine_verbs`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from percale.errors import PercaleError
from percale.lab.api.status import PeerStatus
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.netns_visit import visit_async
from percale.lab.run_dir import NodeDir, log_tail

if TYPE_CHECKING:
    from percale.agent.status import Status

_AT_A_TIME = 8
"""Agents asked at once: each imports its web server with the first request."""


def peers_of(status: Status) -> tuple[PeerStatus, ...]:
    return tuple(PeerStatus(each.node, each.path, each.reached, each.problem) for each in status.peers)


def why_unready(status: Status | None, log: Path) -> str:
    """What the agent waits for first; of one that does not answer, or is ready by now, the end of its log."""
    return status.waitingFor[0] if status is not None and status.waitingFor else log_tail(log)


async def statuses_of(nodes: list[NodeDir]) -> list[Status | None]:
    """None: its agent does not answer."""
    limit = asyncio.Semaphore(_AT_A_TIME)

    async def ask(node: NodeDir) -> Status | None:
        async with limit:
            try:
                return await _status(node)
            except (PercaleError, OSError):  # its agent is not ready, or gone: which the status says of the agent
                return None

    return await asyncio.gather(*map(ask, nodes))


async def _status(node: NodeDir) -> Status:
    """Only what blocks is done in the node's namespace. Raises PercaleError, OSError."""
    from percale.agent.http import client  # noqa: PLC0415 -- 20 ms, and only the status needs it

    where = client.address(node.config, {}, None)
    return client.decode(await visit_async(NETNS / node.name, lambda: client.fetch(where)))
