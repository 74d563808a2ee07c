"""`/healthz` and `/livez` as kube-proxy has them, at :10256: load balancers of clouds ask whether a node is to have clients.

                                                     healthz   livez
    rules not in force yet                           503       503
    the kernel lacks an update for over a minute,
    or rules that somebody removed                   503       503
    the Node is about to be removed                  503       200     connections that are there go on

Made by `proxier.py`, whose health check node ports ask it too; run by `node_agent.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from percale.agent.http.listener import Page, listen, wait_for_connection
from percale.agent.problems import Problems
from percale.agent.service.sync_latency import SyncLatency
from percale.errors import BadConfig

SOURCE = "services.healthz"
PATIENCE = 60.0
"""Seconds that an update may take: twice kube-proxy's period between two syncs."""
_PAUSE = 1.0
"""Seconds until an address that is taken is tried again."""


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
        """`source` is that of the table's problems; `applied`: the kernel has had all; `eligible`: this node is to stay.

        `answered` gets path and status.

        `clock` is in seconds since the epoch.
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
        """The kernel holds what Services want, or will soon."""
        refused = self._problems.current.get(self._source)
        broken = self._clock() - refused.since if refused is not None else 0.0
        return self._applied() and max(self._sync_latency.waiting, broken) <= PATIENCE

    async def serve(self, address: str) -> None:
        """For ever. Where somebody else listens (a kube-proxy that is about to go) it waits until the address is free."""
        while True:
            try:
                with listen(address, setting=SOURCE, hint="tried again until it is free") as listener:
                    self._problems.clear(SOURCE)
                    await wait_for_connection(listener)
                    serving = await asyncio.to_thread(importlib.import_module, "percale.agent.http.server")
                    await serving.serve_pages(listener, {"/healthz": self.healthz, "/livez": self.livez})
            except BadConfig as error:
                self._problems.raise_(SOURCE, error)
                await asyncio.sleep(_PAUSE)

    def healthz(self) -> Page:
        """For load balancers: whether new connections are welcome."""
        return self._page("healthz", self.healthy and self._eligible())

    def livez(self) -> Page:
        """For whoever would start the agent anew: that helps nobody whose node goes."""
        return self._page("livez", self.healthy)

    def _page(self, path: str, good: bool) -> Page:
        now = datetime.now(UTC)
        done = self._sync_latency.last_applied
        last = now if self.healthy else datetime.fromtimestamp(done, UTC) if done is not None else None
        said = {"lastUpdated": last, "currentTime": now, "nodeEligible": self._eligible(), "healthy": self.healthy}
        code = 200 if good else 503
        self.answered(path, code)
        return Page(msgspec.json.encode(said), "application/json", code)
