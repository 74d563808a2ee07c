"""The peers of each node, from its agent's own status. Called by `machine_verbs`."""

from __future__ import annotations

import asyncio

from percale.errors import PercaleError
from percale.lab.api.status import PeerStatus
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.netns_visit import visit_async
from percale.lab.run_dir import NodeDir

_AT_A_TIME = 8
"""Agents asked at once: each imports its web server with the first request."""


async def peers_of(nodes: list[NodeDir]) -> list[tuple[PeerStatus, ...] | None]:
    """None: its agent does not answer."""
    limit = asyncio.Semaphore(_AT_A_TIME)

    async def ask(node: NodeDir) -> tuple[PeerStatus, ...] | None:
        async with limit:
            try:
                return await _peers(node)
            except (PercaleError, OSError):  # its agent is not ready, or gone: which the status says of the agent
                return None

    return await asyncio.gather(*map(ask, nodes))


async def _peers(node: NodeDir) -> tuple[PeerStatus, ...]:
    """Only what blocks is done in the node's namespace. Raises PercaleError, OSError."""
    from percale.agent.http import client  # noqa: PLC0415 -- 20 ms, and only the status needs it

    where = client.address(node.config, {}, None)
    status = client.decode(await visit_async(NETNS / node.name, lambda: client.fetch(where)))
    return tuple(PeerStatus(each.node, each.path, each.reached, each.problem) for each in status.peers)
