"""Services in force on this node: what the store says, chosen for this node, as this node's part of the table.

    Store.watch ─▶ ServiceTable ─▶ changed services ─▶ ServiceElements ─▶ NodeTable

`node.py` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_network

from percale.agent.config import AgentConfig
from percale.agent.following import follow
from percale.agent.table import NodeTable
from percale.agent.troubles import Troubles
from percale.errors import BadConfig, BadManifest
from percale.model.meta import Object, ObjectKey
from percale.model.netconf import NetworkConfig
from percale.render.contents import Edit
from percale.render.service_table import ServiceElements
from percale.service.surroundings import ServiceConfig
from percale.service.table import KINDS, ServiceTable
from percale.store.protocol import Deleted, Snapshot, Store, Upserted

SOURCE = "services"
_BREATH = 200
"""Objects of a snapshot between two breaths of the event loop."""


def service_config(config: AgentConfig, network: NetworkConfig) -> ServiceConfig:
    """What Services are resolved with on this node. Raises BadConfig."""
    asked = config.services
    try:
        ports = tuple(map(ip_network, asked.nodePortAddresses))
        cidrs = tuple(map(ip_network, asked.cidrs))
    except ValueError as error:
        raise BadConfig(str(error), where="services", hint="give networks as 10.96.0.0/12") from error
    return ServiceConfig(
        node=config.node,
        pod_cidrs=tuple(network.networks),
        service_cidrs=cidrs,
        node_port_addresses=ports or None,
        masquerade_all=asked.masqueradeAll,
        strategy=asked.strategy,
    )


class Balancing:
    """All methods are called on the event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        store: Store,
        table: NodeTable,
        *,
        troubles: Troubles,
        local_pods: Callable[[], set[bytes]],
    ) -> None:
        """`local_pods` gives the packed addresses of this node's pods."""
        self.services = ServiceTable(config)
        self.spoken = False
        self._elements = ServiceElements(self.services)
        self._store = store
        self._table = table
        self._troubles = troubles
        self._local_pods = local_pods
        self._known: set[tuple[type[Object], ObjectKey]] = set()
        self._changed: set[ObjectKey] = set()
        table.add(self)

    async def run(self) -> None:
        """For ever."""
        await follow(self._store, KINDS, self._event, self._troubles)

    async def _event(self, event: Snapshot | Upserted | Deleted) -> None:
        match event:
            case Snapshot():
                await self._replace(event.objects)
                self.spoken = True
            case Upserted():
                self._known.add((type(event.object), event.object.key))
                self._changed |= self.services.apply([event.object])
            case Deleted():
                which = (type(event.object), event.object.key)
                self._known.discard(which)
                self._changed |= self.services.apply(gone=[which])
        self._table.touch()

    async def _replace(self, objects: tuple[Object, ...]) -> None:
        for start in range(0, len(objects), _BREATH):
            self._changed |= self.services.apply(objects[start : start + _BREATH])
            await asyncio.sleep(0)
        found = {(type(obj), obj.key) for obj in objects}
        self._changed |= self.services.apply(gone=self._known - found)
        self._known = found

    # This node's table

    def edit(self) -> Edit:
        """What has changed since the last call."""
        changed, self._changed = self._changed, set()
        self._elements.local_pods = frozenset(self._local_pods())
        edit = self._elements.update(changed)
        self._tell()
        return edit

    def image(self) -> Edit:
        """All elements, from the static text alone."""
        return self._elements.image()

    async def made(self, *, anything: bool) -> None:
        """Nobody waits for services."""

    def _tell(self) -> None:
        """What is wrong with Services, each for itself, is one trouble."""
        problems = sorted(set(self.services.problems))
        if problems:
            self._troubles.begin(SOURCE, BadManifest("; ".join(problems)))
        else:
            self._troubles.end(SOURCE)
