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
                return await visit_async(NETNS / node.name, lambda: _fetch_peers(node))
            except (PercaleError, OSError):  # its agent is not ready, or gone: which the status says of the agent
                return None

    return await asyncio.gather(*map(ask, nodes))


def _fetch_peers(node: NodeDir) -> tuple[PeerStatus, ...]:
    """Called inside the node's namespace; blocks."""
    from percale.agent.http import client  # noqa: PLC0415 -- 20 ms, and only the status needs it

    status = client.decode(client.fetch(client.address(node.config, {}, None)))
    return tuple(PeerStatus(each.node, each.path, each.reached, each.problem) for each in status.peers)
