"""The node's tables `ip`, `ip6` and `bridge percale` in a test's namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from tests.silent import silent_problems

from percale.agent.events import Events
from percale.agent.network.network_tables import NetworkTables
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.model.addresses import IPNetwork
from percale.render.network.base_chains import network_tables
from percale.render.nft.objects import TableSpec
from percale.store.memory import MemoryStore


@asynccontextmanager
async def running_tables(
    namespace: int, own: Iterable[IPNetwork] = (), *, log_command: Callable[[str], None] | None = None
) -> AsyncIterator[NetworkTables]:
    """In the namespace at this descriptor; they stay there at the end."""

    def make(spec: TableSpec) -> KernelNftTable:
        return KernelNftTable(NetnsThread(namespace), spec=spec, log_command=log_command)

    problems = silent_problems()
    tables = NetworkTables(network_tables(own), problems, Events("n1", MemoryStore(), problems), make)
    running = asyncio.create_task(tables.run())
    tables.start()
    try:
        yield tables
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
