"""`/healthz` and `/livez` as kube-proxy has them, at :10256: cloud load balancers ask whether a node should get clients.

                                                     healthz   livez
    rules not applied yet                            503       503
    the kernel lacks an update for over a minute,
    or rules that another process removed            503       503
    the Node is about to be removed                  503       200     existing connections continue

Made by `proxier.py`, whose health check node ports use it too; run by `node_services.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from percale.agent.http.listener import Page, listen, wait_for_connection
from percale.agent.problems import Problems
from percale.agent.service.sync_latency import SyncLatency
from percale.errors import BadConfig

MAX_DELAY = 60.0
"""Seconds that an update may take: twice kube-proxy's sync period."""
_RETRY_INTERVAL = 1.0
"""Seconds until an address in use is tried again."""


async def serve_when_free(
    address: str, setting: str, pages: Mapping[str, Callable[[], Page]], problems: Problems
) -> None:
    """Serve these pages until cancelled. Waits while another process (a kube-proxy about to stop) listens there."""
    while True:
        try:
            with listen(address, setting=setting, hint="retried until it is free") as listener:
                problems.clear(setting)
                await wait_for_connection(listener)
                serving = await asyncio.to_thread(importlib.import_module, "percale.agent.http.server")
                await serving.serve_pages(listener, pages)
        except BadConfig as error:
            problems.raise_(setting, error)
            await asyncio.sleep(_RETRY_INTERVAL)


class ProxierHealth:
    """All methods are called on the event loop."""

    def __init__(
        self,
        latency: SyncLatency,
        problems: Problems,
        *,
        source: str,
        applied: Callable[[], bool],
        eligible: Callable[[], bool],
        answered: Callable[[str, int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`source` is the table's problem source; `applied`: the kernel has held all rules; `eligible`: the Node is not leaving.

        `answered` gets path and status of each response. `clock` is in seconds since the epoch.
        """
        self._sync_latency = latency
        self._problems = problems
        self._clock = clock
        self._source = source
        self._applied = applied
        self._eligible = eligible
        self.answered = answered

    @property
    def healthy(self) -> bool:
        """The kernel holds the Services' desired state, or the delay is acceptable."""
        failure = self._problems.current.get(self._source)
        failing = self._clock() - failure.since if failure is not None else 0.0
        return self._applied() and max(self._sync_latency.waiting, failing) <= MAX_DELAY

    @property
    def pages(self) -> dict[str, Callable[[], Page]]:
        return {"/healthz": self.healthz, "/livez": self.livez}

    def healthz(self) -> Page:
        """For load balancers: whether the node takes new connections."""
        return self._page("healthz", self.healthy and self._eligible())

    def livez(self) -> Page:
        """Liveness; stays 200 while the node drains."""
        return self._page("livez", self.healthy)

    def _page(self, path: str, ok: bool) -> Page:
        now = datetime.now(UTC)
        applied = self._sync_latency.last_applied
        last = now if self.healthy else datetime.fromtimestamp(applied, UTC) if applied is not None else None
        content = {"lastUpdated": last, "currentTime": now, "nodeEligible": self._eligible(), "healthy": self.healthy}
        code = 200 if ok else 503
        self.answered(path, code)
        return Page(msgspec.json.encode(content), "application/json", code)
