"""Deletes stale conntrack entries of Services and host ports, and counts connections per endpoint.

    transaction committed ─▶ delete_stale(Served) ─▶ a worker thread ─▶ UDP flows to other endpoints than these: deleted
    table restored ─▶ delete_untranslated(VIPs) ─▶ the same thread ─▶ connections that nobody has answered yet: deleted
    strategy lc, periodically ─▶ count(endpoints) ─▶ the same thread

UDP has no end: as long as a client keeps sending, its conntrack entry leads to an endpoint that is gone, or to none if there was
none at first. Of TCP and SCTP that is so only for a connection that began while the rules were missing: the client's next
attempts stay on the entry, which leads to the VIP itself. Others are left alone: the client notices by itself. `proxier.py` and
`host_ports.py` call it, `own_networking.py` runs it.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from percale.agent.metrics import Metrics
from percale.agent.problems import Problems
from percale.agent.workqueue import WorkQueue
from percale.errors import KernelError
from percale.event_loop import WorkerThread
from percale.kernel.netlink.conntrack import DESTINATION_TRANSLATED, SEEN_REPLY, Conntrack, ConntrackEntry
from percale.kernel.rtnl.dump import own_addresses
from percale.service.endpoint_selection import Record

SOURCE = "service flows"
"""The source of the problem."""

ANY_ADDRESS = b""
"""Stands for each address of this node that has no key of its own, except loopback."""

Served: TypeAlias = Mapping[tuple[bytes, int], frozenset[Record]]
"""The endpoints that may serve an address and port."""

_CONNECTIONS = frozenset((socket.IPPROTO_TCP, socket.IPPROTO_SCTP))


class _Stale(NamedTuple):
    served: Served
    untranslated_to: frozenset[bytes]

    def with_newer(self, newer: _Stale) -> _Stale:
        return _Stale({**self.served, **newer.served}, self.untranslated_to | newer.untranslated_to)


class ConntrackCleaner:
    """All methods are called on the event loop."""

    def __init__(self, conntrack: Conntrack, *, problems: Problems, metrics: Metrics) -> None:
        """`conntrack` is closed with this."""
        self._conntrack = conntrack
        self._metrics = metrics
        self._thread = WorkerThread("service-flows")
        self._queue = WorkQueue[_Stale](
            _NOTHING,
            _Stale.with_newer,
            self._process,
            to_error=_kernel_error,
            source=SOURCE,
            problems=problems,
        )

    def close(self) -> None:
        self._thread.close()
        self._conntrack.close()

    def delete_stale(self, served: Served) -> None:
        """Delete UDP flows to these addresses whose endpoint is not among these. Returns at once: `run` does it."""
        if served:
            self._queue.add(_NOTHING._replace(served=served))

    def delete_untranslated(self, addresses: frozenset[bytes]) -> None:
        """Delete unanswered connections to these VIPs that no rule has translated. Returns at once: `run` does it."""
        if addresses:
            self._queue.add(_NOTHING._replace(untranslated_to=addresses))

    async def wait_idle(self) -> None:
        """Wait until all queued work is done."""
        await self._queue.wait_idle()

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._queue.run()

    async def _process(self, stale: _Stale) -> None:
        self._metrics.flows_forgotten.inc(await self._thread.run(lambda: self._delete(stale)))

    def _delete(self, wanted: _Stale) -> int:
        """Returns how many were deleted. Raises OSError."""
        served = expand_any_address(wanted.served)
        stale: list[ConntrackEntry] = []
        if served:
            flows = self._conntrack.to({address for address, _ in served}, (socket.IPPROTO_UDP,))
            stale += (flow for flow in flows if is_stale(flow, served))
        if wanted.untranslated_to:
            stale += filter(is_untranslated, self._conntrack.to(wanted.untranslated_to, _CONNECTIONS))
        for error in self._conntrack.delete(stale):
            if error is not None:
                raise error
        return len(stale)

    async def count(self, endpoints: Collection[tuple[int, bytes]]) -> Counter[tuple[int, bytes]]:
        """Connections of each endpoint, by protocol number and record. Raises KernelError."""
        try:
            return await self._thread.run(lambda: self._conntrack.connections(endpoints))
        except OSError as error:
            raise _kernel_error(error) from error


def expand_any_address(served: Served) -> Served:
    """Replace ANY_ADDRESS by the node's addresses. Raises OSError."""
    anywhere = {port: records for (address, port), records in served.items() if address == ANY_ADDRESS}
    if not anywhere:
        return served
    own = [address for address in own_addresses() if not ip_address(address).is_loopback]
    named = {(address, port): records for (address, port), records in served.items() if address != ANY_ADDRESS}
    return {(address, port): records for port, records in anywhere.items() for address in own} | named


def is_stale(flow: ConntrackEntry, served: Served) -> bool:
    """Whether the flow is to one of these addresses and its endpoint does not serve it."""
    serving = served.get((flow.original.destination, flow.original.destination_port))
    return serving is not None and flow.server + flow.server_port.to_bytes(2) not in serving


def is_untranslated(flow: ConntrackEntry) -> bool:
    """Whether its destination is the one that its client has sent to, and nobody has answered."""
    return not flow.status & (DESTINATION_TRANSLATED | SEEN_REPLY)


_NOTHING = _Stale({}, frozenset())


def _kernel_error(error: OSError) -> KernelError:
    return KernelError.from_os(error, where="the connection table")


def conntrack_cleaner(problems: Problems, metrics: Metrics) -> ConntrackCleaner:
    """In the caller's network namespace. Raises KernelError."""
    try:
        return ConntrackCleaner(Conntrack(), problems=problems, metrics=metrics)
    except OSError as error:
        raise _kernel_error(error) from error
