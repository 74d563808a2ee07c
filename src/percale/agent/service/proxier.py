"""Applies Services on this node: objects from the store, resolved for this node, are a table of their own.

    Store.watch ─▶ ServiceResolver ─▶ changed Services ─▶ ServiceRenderer ─▶ NodeTable
                                          ▲                                   │ committed
           connections counted (`lc`) ────┘          ┌────────────────────────┤
                                                     ▼                        ▼
                     stale session affinity and conntrack entries      health check ports

`node_services.py` runs it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from prometheus_client import CollectorRegistry

from percale.agent.events import Events, InvolvedObject
from percale.agent.informer import Change, Subscription
from percale.agent.problems import Problems
from percale.agent.service.conntrack_cleanup import ConntrackCleaner, Served
from percale.agent.service.health_check_ports import HealthCheck, HealthChecks
from percale.agent.service.metrics import ServiceMetrics
from percale.agent.service.proxier_health import ProxierHealth
from percale.agent.service.sync_latency import SyncLatency
from percale.agent.table_sections import NodeTable
from percale.errors import BadManifest, KernelError
from percale.model.endpoints import SERVICE_LABEL, EndpointSlice
from percale.model.ip_family import Family
from percale.model.meta import Object, ObjectKey
from percale.model.pod import PROTOCOL_NUMBERS
from percale.render.nft.objects import Transaction
from percale.render.service.renderer import ServiceRenderer
from percale.service.endpoint_selection import Record
from percale.service.node_context import ServiceConfig
from percale.service.resolved_service import ResolvedPort, ResolvedService
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import PortName, Vip
from percale.service.vip_conflicts import node_port_key, vip_key
from percale.store.protocol import Deleted, Snapshot, Upserted

SOURCE = "services"
_RETRY_INTERVAL = 1.0
"""Seconds until a failed deletion of affinity entries is retried."""
_MOST_PROBLEMS = 3
"""Problems of one Service shown in its status and Event."""
_YIELD_EVERY = 200
"""Objects of a snapshot before the event loop gets a turn."""


class ServiceProxier:
    """All methods are called on the event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        subscription: Subscription,
        table: NodeTable,
        *,
        conntrack_cleaner: ConntrackCleaner,
        problems: Problems,
        events: Events,
        registry: CollectorRegistry,
        local_pods: Callable[[], set[bytes]],
        on_health_check_ports: Callable[[Collection[int]], None],
        count_interval: float = 5.0,
    ) -> None:
        """`subscription` is to `resolver.KINDS`. `local_pods` gives the packed addresses of this node's pods.

        `count_interval` is in seconds, for the strategy `lc`.

        `on_health_check_ports` gets the ports in use by health checks. `registry` gets the metrics of Services.
        """
        self.resolver = ServiceResolver(config)
        self.synced = False
        self._sync_latency = SyncLatency()
        self._metrics = ServiceMetrics(registry, self.resolver.services, self._sync_latency)
        self.health = ProxierHealth(
            self._sync_latency,
            problems,
            source=table.source,
            applied=table.applied.is_set,
            eligible=lambda: self.resolver.node.eligible,
            answered=self._metrics.health_answered,
        )
        self._renderer = ServiceRenderer(self.resolver)
        self._subscription = subscription
        self._table = table
        self._problems = problems
        self._events = events
        self._local_pods = local_pods
        self._conntrack_cleaner = conntrack_cleaner
        self._count_interval = count_interval
        self._on_health_check_ports = on_health_check_ports
        self._health_checks = HealthChecks(self.health, problems)
        self._health_check_ports: dict[ObjectKey, tuple[int, HealthCheck]] = {}
        """Each Service's health check port, and what it reports."""
        self._slices_changed: set[ObjectKey] = set()
        """Services whose slices changed: a draining endpoint is not selected any more before it is gone."""
        self._datagrams: set[tuple[Family, Vip]] = set()
        """UDP addresses of changed Services, with their IP version."""
        self._serving: dict[tuple[bytes, int], frozenset[Record]] = {}
        """The endpoints of UDP addresses when stale flows were last deleted."""
        self._foreign_change = True
        """The kernel may have lacked the rules, since the last `changes`: clients' packets passed untranslated."""
        self._recheck_all = False
        """Likewise, before the last `changes`."""
        self._changed: set[ObjectKey] = set()
        self._in_flight: set[ObjectKey] = set()
        """Services of the last `changes`: reported once they are committed."""
        self._with_problems: set[ObjectKey] = set()
        """Services with a current problem."""
        table.add(self)
        table.on_foreign_change(self._on_foreign_change)

    def _on_foreign_change(self) -> None:
        self._foreign_change = True

    async def run(self) -> None:
        """Runs until cancelled, which closes the health check ports and keeps all kernel state."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._subscription.run(self._on_event))
                tasks.create_task(self._count_connections())
        finally:
            await self._health_checks.close()

    async def _count_connections(self) -> None:
        """Update the endpoint weights of Services with the strategy `lc` periodically."""
        while True:
            await asyncio.sleep(self._count_interval)
            counted = [each for each in self.resolver.services.values() if any(is_counted(port) for port in each.ports)]
            if not counted:
                continue
            ports = [port for each in counted for port in each.ports if is_counted(port)]
            wanted = {
                (PROTOCOL_NUMBERS[port.name.protocol], record)
                for port in ports
                for record in port.records(port.cluster + port.local)
            }
            try:
                self._renderer.connections = await self._conntrack_cleaner.count(wanted)
            except KernelError as error:
                self._problems.record(SOURCE, error)
                continue
            self._changed |= {each.key for each in counted}
            self._table.request_sync()

    async def _on_event(self, event: Change) -> None:
        self._sync_latency.received()
        match event:
            case Snapshot():
                await self._replace(event.objects)
                self.synced = True
                self._sync_latency.received()  # parts of the snapshot may have been submitted meanwhile
            case Upserted():
                self._metrics.received(event.object.KIND)
                self._slices_changed.add(_service_of(event.object))
                self._changed |= self.resolver.apply([event.object])
            case Deleted():
                self._metrics.received(event.object.KIND)
                self._slices_changed.add(_service_of(event.object))
                self._changed |= self.resolver.apply(gone=[(type(event.object), event.object.key)])
        self._table.request_sync()

    async def _replace(self, objects: Iterator[Object]) -> None:
        gone = set(self.resolver.object_keys)
        while some := tuple(islice(objects, _YIELD_EVERY)):
            for kind, count in Counter(type(obj).KIND for obj in some).items():
                self._metrics.received(kind, count)
            self._changed |= self.resolver.apply(some)
            self._slices_changed.update(map(_service_of, some))
            gone.difference_update([(type(obj), obj.key) for obj in some])
            await asyncio.sleep(0)
        self._changed |= self.resolver.apply(gone=gone)

    # Table section

    def changes(self) -> Transaction:
        """Changes since the last call."""
        self._sync_latency.submitted()
        self._recheck_all |= self._foreign_change
        self._foreign_change = False
        changed, self._changed = self._changed, set()
        slices_changed, self._slices_changed = self._slices_changed, set()
        self._renderer.local_pods = frozenset(self._local_pods())
        for key in changed | slices_changed:
            old, new = self._renderer.rendered(key), self.resolver.services.get(key)
            self._datagrams |= _datagrams(old) | _datagrams(new)
        for key in changed:
            service = self.resolver.services.get(key)
            if service is None or service.health_check_port is None:
                self._health_check_ports.pop(key, None)
            else:
                self._health_check_ports[key] = service.health_check_port, HealthCheck(key, service.local_ready)
        self._in_flight |= changed
        return self._renderer.update(changed)

    def snapshot(self) -> Transaction:
        """All elements, relative to the base chains."""
        return self._renderer.snapshot()

    def involved_objects(self, part: Transaction) -> Iterable[InvolvedObject]:
        """The Services that this part belongs to."""
        return (InvolvedObject("Service", key) for key in self._renderer.owners(part))

    async def committed(self, *, changed: bool) -> None:
        """Report metrics and problems, and delete entries that lead to endpoints that are gone."""
        if (took := self._sync_latency.applied()) is not None:
            self._metrics.programmed(took)
        in_flight, self._in_flight = self._in_flight, set()
        self._metrics.changed(in_flight)
        self._report_problems(in_flight)
        datagrams, self._datagrams = self._datagrams, set()
        if self._recheck_all:
            self._recheck_all = False
            self._serving.clear()
            datagrams |= {each for service in self.resolver.services.values() for each in _datagrams(service)}
            self._conntrack_cleaner.delete_untranslated(self._addresses())
        served = self._served(datagrams)
        self._conntrack_cleaner.delete_stale(
            {at: now for at, now in served.items() if not self._serving.get(at, _UNKNOWN) <= now}
        )
        for at, now in served.items():
            self._serving[at] = now
            if not now:
                del self._serving[at]
        checks = dict(self._health_check_ports.values())
        self._on_health_check_ports(checks.keys())
        self._health_checks.sync(checks)
        valid, self._renderer.stale_affinity_maps = self._renderer.stale_affinity_maps, {}
        try:
            self._metrics.clients_forgotten(await self._table.prune(valid))
        except KernelError as error:
            self._renderer.stale_affinity_maps = valid | self._renderer.stale_affinity_maps
            self._problems.record(SOURCE, error)
            asyncio.get_running_loop().call_later(_RETRY_INTERVAL, self._table.request_sync)

    def _addresses(self) -> frozenset[bytes]:
        """Of all Services, but for the node's own."""
        ports = (port for service in self.resolver.services.values() for port in service.ports)
        return frozenset(vip.address for port in ports for vip in port.vips if vip.kind != "node-port")

    def serving(self, ports: Collection[int]) -> Served:
        """The endpoints of all Services' UDP addresses with these ports."""
        known = {each for service in self.resolver.services.values() for each in _datagrams(service)}
        return self._served((version, vip) for version, vip in known if vip.port in ports)

    def _served(self, changed: Iterable[tuple[Family, Vip]]) -> Served:
        """The current endpoints of these addresses. A Service's address takes precedence over a node port."""
        found: dict[tuple[bytes, int], frozenset[Record]] = {}
        endpoints: dict[tuple[PortName, Family], frozenset[Record]] = {}
        for family, vip in sorted(changed, key=lambda each: each[1].kind != "node-port"):
            if vip.kind == "node-port":
                owner = self.resolver.vip_owners.owner(node_port_key(family, "UDP", vip.port))
                own = self.resolver.node_port_addresses
                addresses = [each for each in own if len(each) == family.size]
            else:
                owner, addresses = self.resolver.vip_owners.owner(vip_key(vip.address, "UDP", vip.port)), [vip.address]
            serving: frozenset[Record] = frozenset()
            if owner is not None:
                which = owner.name, owner.family
                if which not in endpoints:
                    endpoints[which] = self.resolver.serving(owner)
                serving = endpoints[which]
            found |= {(address, vip.port): serving for address in addresses}
        return found

    def _report_problems(self, changed: Iterable[ObjectKey]) -> None:
        """Raise the problems of these Services, each by itself; other Services are not affected."""
        for key in changed:
            service = self.resolver.services.get(key)
            if service is not None and service.problems:
                self._with_problems.add(key)
                problems = list(dict.fromkeys(service.problems))
                more = len(problems) - _MOST_PROBLEMS
                problem = "; ".join(problems[:_MOST_PROBLEMS]) + (
                    f"; and {more} more in percale service show" if more > 0 else ""
                )
                self._problems.raise_(f"service {key}", BadManifest(problem))
                self._events.warn(InvolvedObject("Service", key), "NotServed", problem)
            elif key in self._with_problems:
                self._with_problems.remove(key)
                self._problems.clear(f"service {key}")


_UNKNOWN: frozenset[Record] = frozenset((b"",))
"""Not a subset of any set of endpoints."""


def _service_of(obj: Object) -> ObjectKey:
    """The Service that the object is or belongs to."""
    if isinstance(obj, EndpointSlice):
        return ObjectKey(obj.metadata.namespace, obj.metadata.labels.get(SERVICE_LABEL, ""))
    return obj.key


def is_counted(port: ResolvedPort) -> bool:
    """Whether its strategy needs connection counts."""
    return port.strategy.name == "lc"


def _datagrams(service: ResolvedService | None) -> set[tuple[Family, Vip]]:
    """A Service's UDP addresses, with their IP version."""
    ports = [port for port in service.ports if port.name.protocol == "UDP"] if service is not None else ()
    return {(port.family, vip) for port in ports for vip in port.vips}
