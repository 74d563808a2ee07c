"""A cluster's DNS records: Kubernetes' DNS specification 1.1 as a function of Services and EndpointSlices. Pure.

    web.shop.svc.cluster.local             its cluster IPs, or of a headless service its ready endpoints
    _http._tcp.web.shop.svc.cluster.local  SRV: port and name
    db-0.db.shop.svc.cluster.local         an endpoint of a headless service by its host name
    4.3.2.1.in-addr.arpa                   PTR: back to the name

Used by the lab's name server (`lab/dns/server.py`). Source: kubernetes/dns, docs/specification.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.addresses import is_address
from percale.model.endpoints import Endpoint, EndpointSlice
from percale.model.service import Service

RecordType: TypeAlias = Literal["A", "AAAA", "CNAME", "SRV", "PTR", "TXT", "SOA", "NS"]

DOMAIN = "cluster.local"
TTL = 5
"""Seconds, as CoreDNS's default."""
_SERVICE_LABEL = "kubernetes.io/service-name"
_VERSION = "1.1.0"


class Record(NamedTuple):
    """A resource record; `data` as in a zone file, names fully qualified."""

    name: str
    type: RecordType
    data: str


class Answer(Struct, frozen=True):
    """`known` False: the name does not exist (NXDOMAIN). `records` is empty when it has none of the requested type."""

    known: bool
    records: tuple[Record, ...] = ()


class Zone:
    """All names of a cluster at one moment. Names are in lower case and fully qualified, with their last dot."""

    def __init__(self, services: Iterable[Service], slices: Iterable[EndpointSlice], domain: str = DOMAIN) -> None:
        self.origin = f"{domain}."
        self._records: defaultdict[str, list[Record]] = defaultdict(list)
        """By name; an empty non-terminal has an empty list."""
        endpoints: defaultdict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
        for each in slices:
            name = each.metadata.labels.get(_SERVICE_LABEL)
            if name is not None:
                endpoints[each.metadata.namespace or "default", name].append(each)
        self._add(Record(f"dns-version.{self.origin}", "TXT", f'"{_VERSION}"'))
        for service in services:
            key = (service.metadata.namespace or "default", service.metadata.name)
            self._add_service(service, endpoints[key])

    def lookup(self, name: str, kind: str) -> Answer:
        """The records of this name and type; a CNAME answers every type."""
        found = self._records.get(name.lower())
        if found is None:
            return Answer(known=False)
        chosen = tuple(record for record in found if record.type in (kind, "CNAME"))
        return Answer(True, tuple(dict.fromkeys(chosen)))

    def is_authoritative_for(self, name: str) -> bool:
        """Whether the name is in the zone, or a reverse name with a record."""
        name = name.lower()
        return name == self.origin or name.endswith(f".{self.origin}") or name in self._records

    def _add(self, record: Record) -> None:
        self._records[record.name].append(record)
        _, _, parent = record.name.partition(".")
        while parent and parent not in self._records and parent.endswith(self.origin):
            self._records[parent] = []  # an empty non-terminal: NOERROR without records
            _, _, parent = parent.partition(".")

    def _add_service(self, service: Service, slices: list[EndpointSlice]) -> None:
        spec = service.spec
        base = f"{service.metadata.name}.{service.metadata.namespace or 'default'}.svc.{self.origin}"
        if spec.type == "ExternalName":
            if spec.externalName:
                self._add(Record(base, "CNAME", f"{spec.externalName.rstrip('.').lower()}."))
            return
        if spec.clusterIP == "None":
            self._records.setdefault(base, [])
            self._add_headless(service, base, slices)
            return
        addresses = [each for each in spec.clusterIPs or (spec.clusterIP or "",) if is_address(each)]
        for address in addresses:
            self._add_address(base, address)
            self._add(Record(_reversed(address), "PTR", base))
        if not addresses:
            return
        for port in spec.ports:
            if port.name:
                self._add(Record(f"_{port.name}._{port.protocol.lower()}.{base}", "SRV", f"0 100 {port.port} {base}"))

    def _add_headless(self, service: Service, base: str, slices: list[EndpointSlice]) -> None:
        """Each ready endpoint by the service's name, and by its own below it."""
        for each in slices:
            if each.addressType == "FQDN":
                continue
            for endpoint in each.endpoints:
                if not _is_published(endpoint, service):
                    continue
                for address in filter(is_address, endpoint.addresses):
                    own = f"{endpoint.hostname or _dashed(address)}.{base}"
                    self._add_address(base, address)
                    self._add_address(own, address)
                    self._add(Record(_reversed(address), "PTR", own))
                    for port in each.ports:
                        if port.name and port.port is not None:
                            srv = f"_{port.name}._{(port.protocol or 'TCP').lower()}.{base}"
                            self._add(Record(srv, "SRV", f"0 100 {port.port} {own}"))

    def _add_address(self, name: str, address: str) -> None:
        parsed = ip_address(address)
        self._add(Record(name, "A" if parsed.version == 4 else "AAAA", str(parsed)))

    def __iter__(self) -> Iterator[Record]:
        for records in self._records.values():
            yield from records


def _is_published(endpoint: Endpoint, service: Service) -> bool:
    return endpoint.conditions.ready is not False or service.spec.publishNotReadyAddresses


def _dashed(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def _reversed(address: str) -> str:
    return f"{ip_address(address).reverse_pointer}."
