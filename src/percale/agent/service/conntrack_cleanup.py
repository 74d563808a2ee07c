"""What services and host ports want from the connection table: datagram flows of who is gone forgotten, connections counted.

    edit is in the kernel ─▶ forget(Served) ─▶ a worker thread ─▶ UDP flows with another destination than these: deleted
    strategy lc, now and then ─▶ count(endpoints) ─▶ the same thread

UDP has no end: a client goes on with its flow, and so with an endpoint that is gone, or with none that was there when it
began, as long as the entry is there. TCP entries are left alone: the client notices by itself. `proxier.py` and
`host_ports.py` call, `node_agent.py` runs it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TypeAlias, TypeVar

from percale.agent.metrics import Metrics
from percale.agent.problems import Problems
from percale.agent.workqueue import WorkQueue
from percale.errors import KernelError
from percale.kernel.local_addresses import own_addresses
from percale.kernel.netlink.conntrack import Conntrack, Tracked
from percale.service.endpoint_selection import Record

T = TypeVar("T")

SOURCE = "service flows"
"""The problems' source."""

ANY_ADDRESS = b""
"""For an address: each that this node has, unless it is named too; but loopback's."""

Served: TypeAlias = Mapping[tuple[bytes, int], frozenset[Record]]
"""Who may serve an address and port."""


class ConntrackCleaner:
    """All methods are called on the event loop."""

    def __init__(self, conntrack: Conntrack, *, problems: Problems, metrics: Metrics) -> None:
        """`conntrack` is closed with this."""
        self._conntrack = conntrack
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="service-flows")
        self._queue = WorkQueue[Served](
            {},
            lambda before, since: {**before, **since},
            self._process,
            to_error=_kernel_error,
            source=SOURCE,
            problems=problems,
        )

    def close(self) -> None:
        self._thread.shutdown()
        self._conntrack.close()

    def delete_stale(self, served: Served) -> None:
        """Datagram flows to these addresses that lead elsewhere. Returns at once: `run` does it."""
        if served:
            self._queue.add(served)

    async def wait_idle(self) -> None:
        """Wait until all that was asked for is done."""
        await self._queue.wait_idle()

    async def run(self) -> None:
        """For ever."""
        await self._queue.run()

    async def _process(self, served: Served) -> None:
        self._metrics.flows_forgotten.inc(await self._do(lambda: self._delete_stale(served)))

    def _delete_stale(self, served: Served) -> int:
        """How many were forgotten. Raises OSError."""
        served = expand_any_address(served)
        flows = self._conntrack.to({address for address, _ in served}, socket.IPPROTO_UDP)
        left = [flow for flow in flows if is_stale(flow, served)]
        for error in self._conntrack.forget(left):
            if error is not None:
                raise error
        return len(left)

    async def count(self, endpoints: Collection[tuple[int, bytes]]) -> Counter[tuple[int, bytes]]:
        """Connections of each endpoint, by protocol number and record. Raises KernelError."""
        try:
            return await self._do(lambda: self._conntrack.connections(endpoints))
        except OSError as error:
            raise _kernel_error(error) from error

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)


def expand_any_address(served: Served) -> Served:
    """With the node's addresses in place of ANY_ADDRESS. Raises OSError."""
    anywhere = {port: records for (address, port), records in served.items() if address == ANY_ADDRESS}
    if not anywhere:
        return served
    own = [address for address in own_addresses() if not ip_address(address).is_loopback]
    named = {(address, port): records for (address, port), records in served.items() if address != ANY_ADDRESS}
    return {(address, port): records for port, records in anywhere.items() for address in own} | named


def is_stale(flow: Tracked, served: Served) -> bool:
    """A flow to one of these addresses that goes to somebody who does not serve it."""
    serving = served.get((flow.original.destination, flow.original.destination_port))
    return serving is not None and flow.server + flow.server_port.to_bytes(2) not in serving


def _kernel_error(error: OSError) -> KernelError:
    return KernelError(error.strerror or str(error), errno=error.errno or 0, where="the connection table")


def conntrack_cleaner(problems: Problems, metrics: Metrics) -> ConntrackCleaner:
    """In the caller's network namespace. Raises KernelError."""
    try:
        return ConntrackCleaner(Conntrack(), problems=problems, metrics=metrics)
    except OSError as error:
        raise _kernel_error(error) from error
