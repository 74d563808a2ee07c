"""Which addresses of Services one node advertises by themselves. Pure, one change at a time.

A block of such addresses is advertised by every node as a whole. By itself a node advertises an address only of a Service with
policy Local, while it has a ready endpoint of it: the longer prefix brings clients to nodes that have one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from percale.model.addresses import IPNetwork, is_address, parse_network
from percale.model.endpoints import SERVICE_LABEL, EndpointSlice
from percale.model.meta import ObjectKey
from percale.model.service import Service


class ServicePrefixes:
    """The Services and slices that were put."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._blocks: tuple[Sequence[IPNetwork], ...] = ((), (), ())
        """Of cluster, external and load balancer addresses."""
        self._services: dict[ObjectKey, Service] = {}
        self._local: defaultdict[ObjectKey, set[str]] = defaultdict(set)
        """Names of slices with a ready endpoint here, by Service."""
        self._service_of: dict[ObjectKey, ObjectKey] = {}
        """By slice."""
        self._prefixes: dict[ObjectKey, tuple[IPNetwork, ...]] = {}
        self._counts: Counter[IPNetwork] = Counter()

    @property
    def prefixes(self) -> tuple[IPNetwork, ...]:
        """Sorted by version and address."""
        return tuple(sorted(self._counts, key=lambda each: (each.version, each)))

    def clear(self) -> None:
        """Forget all Services and slices."""
        for kept in (self._services, self._local, self._service_of, self._prefixes, self._counts):
            kept.clear()

    def set_blocks(self, blocks: Iterable[Iterable[str]]) -> None:
        """CIDRs of cluster, external and load balancer addresses."""
        parsed = tuple(tuple(map(parse_network, each)) for each in blocks)
        if parsed != self._blocks:
            self._blocks = parsed
            for key in list(self._services):
                self._update(key)

    def put_service(self, service: Service) -> None:
        """New or changed."""
        self._services[service.key] = service
        self._update(service.key)

    def remove_service(self, key: ObjectKey) -> None:
        """Deleted."""
        self._services.pop(key, None)
        self._update(key)

    def put_slice(self, entry: EndpointSlice) -> None:
        """New or changed."""
        self.remove_slice(entry.key)
        name = entry.metadata.labels.get(SERVICE_LABEL)
        ready = any(each.nodeName == self._node and each.conditions.ready is not False for each in entry.endpoints)
        if name and ready:
            service = ObjectKey(entry.metadata.namespace, name)
            self._service_of[entry.key] = service
            self._local[service].add(entry.metadata.name)
            self._update(service)

    def remove_slice(self, key: ObjectKey) -> None:
        """Deleted."""
        service = self._service_of.pop(key, None)
        if service is not None:
            self._local[service].discard(key.name)
            if not self._local[service]:
                del self._local[service]
            self._update(service)

    def _update(self, key: ObjectKey) -> None:
        service = self._services.get(key)
        now = tuple(self._advertised(service)) if service is not None else ()
        self._counts.update(now)
        self._counts.subtract(self._prefixes.pop(key, ()))
        self._counts += Counter()
        if now:
            self._prefixes[key] = now

    def _advertised(self, service: Service) -> Iterator[IPNetwork]:
        local = service.spec.externalTrafficPolicy == "Local"
        if local and service.key not in self._local:
            return
        for addresses, blocks in zip(_addresses(service), self._blocks, strict=True):
            for address in map(ip_network, filter(is_address, addresses)):
                inside = [block for block in blocks if block.version == address.version and address.subnet_of(block)]  # type: ignore[arg-type]
                if inside and (local or address in inside):
                    yield address


def _addresses(service: Service) -> tuple[Iterable[str], Iterable[str], Iterable[str]]:
    """Cluster, external and load balancer addresses."""
    spec = service.spec
    balancers = [each.ip for each in service.status.loadBalancer.ingress if each.ip and each.ipMode != "Proxy"]
    return spec.clusterIPs or ([spec.clusterIP] if spec.clusterIP else []), spec.externalIPs, balancers
