"""A Service as a JSON document: `percale service show -o json`. The field names are an interface."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal, get_args

from msgspec import UNSET, Struct, UnsetType, field

from percale.explain.services.endpoint_usage import EndpointUsage
from percale.explain.services.show import Connections, PortView, ServiceView, address_kinds
from percale.service.resolved_service import ClientLocation, ResolvedPort
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import Vip, VipKind


class AddressDocument(Struct, frozen=True):
    """One address of a service port; None for a node port, which is at the node's own addresses."""

    kind: VipKind
    address: str | None
    port: int


class ClientDocument(Struct, frozen=True):
    """What happens to one kind of client at one kind of address."""

    from_: ClientLocation = field(name="from")
    to: str
    action: Literal["endpoints", "reject", "drop"]
    endpoints: int
    masquerade: bool


class EndpointDocument(Struct, frozen=True):
    """An endpoint, its users, and why others do not use it. `connections` is None if not counted."""

    endpoint: str
    pod: str | None
    node: str | None
    used: str
    users: tuple[str, ...] = field(name="for")
    reason: str | None
    connections: int | UnsetType = UNSET


class PortDocument(Struct, frozen=True, rename="camel"):
    """One service port of one address family."""

    name: str | None
    protocol: str
    family: str
    addresses: tuple[AddressDocument, ...]
    source_ranges: tuple[str, ...]
    clients: tuple[ClientDocument, ...]
    endpoints: tuple[EndpointDocument, ...]


class ServiceDocument(Struct, frozen=True, rename="camel"):
    """A Service as one node sees it."""

    namespace: str | None
    name: str
    type: str
    node: str | None
    unproxied_reason: str | None = field(name="apart")
    strategy: str | None
    affinity_seconds: int | None
    health_check_node_port: int | None
    local_ready: int | None
    ports: tuple[PortDocument, ...]
    problems: tuple[str, ...]


def service_document(seen: ServiceView, connections: Connections | None = None) -> ServiceDocument:
    """The view of `service show`; `connections` is None if not counted."""
    service, resolved = seen.service, seen.resolved
    first = seen.ports[0].port.spec if seen.ports else None
    return ServiceDocument(
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        type=service.spec.type,
        node=seen.table.config.node or None,
        unproxied_reason=seen.unproxied_reason,
        strategy=first.strategy.name if first is not None else None,
        affinity_seconds=first.affinity if first is not None else None,
        health_check_node_port=resolved.health_check_port if resolved is not None else None,
        local_ready=resolved.local_ready if resolved is not None and resolved.health_check_port else None,
        ports=tuple(_port(each, seen.table, connections) for each in seen.ports),
        problems=seen.problems,
    )


def _port(seen: PortView, table: ServiceResolver, connections: Connections | None) -> PortDocument:
    port = seen.port
    return PortDocument(
        name=port.name.port or None,
        protocol=port.name.protocol,
        family=f"IPv{port.family}",
        addresses=tuple(
            AddressDocument(vip.kind, str(ip_address(vip.address)) if vip.address else None, vip.port)
            for vip in port.vips
        ),
        source_ranges=tuple(map(str, port.spec.source_ranges)),
        clients=tuple(
            _client(port, name, vip, location, table)
            for name, vip in address_kinds(port)
            for location in get_args(ClientLocation)
        ),
        endpoints=tuple(_endpoint(each, port, connections) for each in seen.endpoints),
    )


def _client(port: ResolvedPort, to: str, vip: Vip, location: ClientLocation, table: ServiceResolver) -> ClientDocument:
    slots, masquerade = port.route(vip.kind, location, masquerade=table.config.cluster_ip_masquerade)
    if isinstance(slots, str):
        return ClientDocument(location, to, slots, 0, masquerade=False)
    return ClientDocument(location, to, "endpoints", len(set(port.records(slots))), masquerade)


def _endpoint(each: EndpointUsage, port: ResolvedPort, connections: Connections | None) -> EndpointDocument:
    return EndpointDocument(
        endpoint=each.endpoint,
        pod=each.pod,
        node=each.node,
        used=each.used,
        users=each.users,
        reason=each.reason,
        connections=connections.get((port.name.protocol, each.record), 0) if connections is not None else UNSET,
    )
