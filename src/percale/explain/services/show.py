"""A Service as one node sees it: its addresses, its endpoints, and what happens to whom. Called by cli/service/; pure.

Service, slices ─ endpoint_usage.py ─▶ Seen ─┐
ServiceResolver ─ ResolvedService ───────────┴▶ ServiceView ─▶ text here, JSON in document.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import TypeAlias, get_args

from msgspec import Struct

from percale.counted import counted
from percale.explain.services.endpoint_usage import EndpointUsage, endpoints_of, slices_of
from percale.model.meta import Object
from percale.model.service import HEADLESS_LABEL, PROXY_NAME_LABEL, Service
from percale.service.endpoint_selection import Record
from percale.service.packet_lookup import KINDS, LOCATIONS
from percale.service.resolved_service import ClientLocation, ResolvedPort, ResolvedService
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import Vip, format_vip, is_proxied
from percale.text_columns import columns

Connections: TypeAlias = Mapping[tuple[str, Record], int]
"""How many connections go to each endpoint, by protocol and endpoint."""


_INDENT = "  "


class PortView(Struct, frozen=True):
    """One service port of one address family."""

    port: ResolvedPort
    endpoints: tuple[EndpointUsage, ...]


class ServiceView(Struct, frozen=True):
    """`unproxied_reason` says why there is nothing to do for it: headless, an external name, another proxy's."""

    service: Service
    table: ServiceResolver
    ports: tuple[PortView, ...]
    unproxied_reason: str | None

    @property
    def resolved(self) -> ResolvedService | None:
        return self.table.services.get(self.service.key)

    @property
    def problems(self) -> tuple[str, ...]:
        return self.resolved.problems if self.resolved is not None else ()


def view(service: Service, table: ServiceResolver, objects: Iterable[Object]) -> ServiceView:
    """`table` is of these objects."""
    resolved, node = table.services.get(service.key), table.config.node
    ports: tuple[PortView, ...] = ()
    if resolved is not None:
        slices = slices_of(service, objects, node)
        ports = tuple(
            PortView(port, tuple(endpoints_of(port, slices, table)))
            for port in sorted(resolved.ports, key=lambda port: port.family)
        )
    return ServiceView(service, table, ports, unproxied_reason(service))


def unproxied_reason(service: Service) -> str | None:
    """Why proxies have nothing to do for it, if they have not."""
    labels, spec = service.metadata.labels, service.spec
    if PROXY_NAME_LABEL in labels:
        return f"another proxy's: {labels[PROXY_NAME_LABEL]}"
    if spec.type == "ExternalName":
        return f"a name for {spec.externalName}"
    if spec.clusterIP == "None" or HEADLESS_LABEL in labels:
        return "headless: its name leads to the pods themselves"
    return None if is_proxied(service) and spec.ports else "without cluster IP or ports"


# Text


def lines(seen: ServiceView, connections: Connections | None = None) -> Iterator[str]:
    """For a person."""
    service, node = seen.service, seen.table.config.node
    yield f"Service {service.key}{f' as {node} sees it' if node else ''}: {', '.join(_traits(seen))}"
    for each in seen.ports:
        yield ""
        yield from _port_lines(each, seen.table, connections)
    resolved = seen.resolved
    if resolved is not None and resolved.health_check_port:
        yield ""
        yield f"health check at node port {resolved.health_check_port}: {_health(resolved)}"
    if seen.problems:
        yield ""
        yield "problems"
        yield from (f"  {problem}" for problem in seen.problems)


def _traits(seen: ServiceView) -> Iterator[str]:
    yield seen.service.spec.type
    if seen.unproxied_reason is not None:
        yield seen.unproxied_reason
        return
    if not seen.ports:
        yield "no address and port of it can be used"
        return
    spec = seen.ports[0].port.spec
    yield f"strategy {spec.strategy.name}"
    if spec.affinity is not None:
        yield f"ClientIP affinity of {spec.affinity} s"


def _health(resolved: ResolvedService) -> str:
    count = f"{counted(resolved.local_ready, 'ready endpoint')} on this node"
    return f"200, {count}" if resolved.local_ready else f"503, {count}"


def _port_lines(seen: PortView, table: ServiceResolver, connections: Connections | None) -> Iterator[str]:
    port = seen.port
    yield f"{_title(port)}, IPv{port.family}"
    yield from columns([_vip_row(vip, port, table) for vip in port.vips], _INDENT)
    yield ""
    yield from columns(list(_client_rows(port, table)), _INDENT)
    yield ""
    if not seen.endpoints:
        yield "  no endpoints"
        return
    head = ["ENDPOINT", "NODE", "POD", "USED", *(["CONNECTIONS"] if connections is not None else []), "WHY"]
    yield from columns([head, *(_endpoint_row(each, port, connections) for each in seen.endpoints)], _INDENT)


def _title(port: ResolvedPort) -> str:
    return f"{f'{port.name.port}: ' if port.name.port else ''}{port.spec.number}/{port.name.protocol}"


def _vip_row(vip: Vip, port: ResolvedPort, table: ServiceResolver) -> list[str]:
    text = format_vip(vip)
    if vip.kind == "node-port":
        here = [str(ip_address(each)) for each in table.node_port_addresses if len(each) == port.family.size]
        text = f"{vip.port} at {', '.join(here)}" if here else str(vip.port)
    if vip.kind == "load-balancer" and port.spec.source_ranges:
        text += f", for {', '.join(map(str, port.spec.source_ranges))} only"
    return [KINDS[vip.kind], text]


def _client_rows(port: ResolvedPort, table: ServiceResolver) -> Iterator[list[str]]:
    """What happens to each kind of client, at the cluster IP and at all other addresses."""
    kinds = address_kinds(port)
    yield ["FROM", *(name.upper() for name, _ in kinds)]
    for place in get_args(ClientLocation):
        yield [LOCATIONS[place], *(_fate(port, vip, place, table) for _, vip in kinds)]


def address_kinds(port: ResolvedPort) -> list[tuple[str, Vip]]:
    """Addresses that are not the cluster IP are treated alike: one speaks for all."""
    named = [("cluster IP" if vip.kind == "cluster" else "other addresses", vip) for vip in port.vips]
    return [(name, vip) for index, (name, vip) in enumerate(named) if name not in [each for each, _ in named[:index]]]


def _fate(port: ResolvedPort, vip: Vip, place: ClientLocation, table: ServiceResolver) -> str:
    slots, masquerade = port.route(vip.kind, place, masquerade=table.config.cluster_ip_masquerade)
    if isinstance(slots, str):
        return "refused" if slots == "reject" else "dropped"
    count = len(set(port.records(slots)))
    return f"{counted(count, 'endpoint')}, {'masqueraded' if masquerade else 'source kept'}"


def _endpoint_row(each: EndpointUsage, port: ResolvedPort, connections: Connections | None) -> list[str]:
    count = [str(connections.get((port.name.protocol, each.record), 0))] if connections is not None else []
    return [each.endpoint, each.node or "-", each.pod or "-", each.used, *count, each.reason or ""]
