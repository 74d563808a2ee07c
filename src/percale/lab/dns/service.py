"""The lab's name server as a pod: started in kube-system/dns by `kubelet`, updated by `cluster`.

dnspython takes 100 ms to import: it is imported when the pod starts, off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from percale.lab.dns.records import Zone
from percale.model.endpoints import EndpointSlice
from percale.model.service import Service

if TYPE_CHECKING:
    from percale.lab.dns.server import NameServer


class NameService:
    """Used on the controller's event loop."""

    def __init__(self, hosts: Mapping[str, tuple[str, ...]]) -> None:
        """`hosts`: the addresses of machines outside the cluster, by their names."""
        self._hosts = hosts
        self._known: tuple[Sequence[Service], Sequence[EndpointSlice]] = ((), ())
        self._server: NameServer | None = None

    def update(self, services: Sequence[Service], slices: Sequence[EndpointSlice]) -> None:
        """Set all Services and EndpointSlices."""
        if (services, slices) != self._known:
            self._known = (services, slices)
            self._update_server()

    async def serve(self, namespace: Path) -> None:
        """Listen in this network namespace. Raises OSError."""
        self.stop()
        server = await asyncio.to_thread(_new_server)
        server.hosts = self._hosts
        await server.serve(namespace)
        self._server = server
        self._update_server()

    def stop(self) -> None:
        """Close the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _update_server(self) -> None:
        if self._server is not None:
            self._server.zone = Zone(*self._known)


def _new_server() -> NameServer:
    from percale.lab.dns.server import NameServer  # noqa: PLC0415 -- see above

    return NameServer()
