"""Where a packet seen on this node would go, and whether its source is kept: a pure function over what is also rendered.

Called by the command `percale service resolve`, by explain, and by kernel tests that compare it with real packets.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress
from percale.model.ip_family import Family
from percale.model.pod import Protocol
from percale.service.node_context import is_in
from percale.service.resolved_service import ClientLocation, ResolvedPort
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import PortSpec, Vip, VipKind, format_endpoint
from percale.service.vip_conflicts import key_of, node_port_key, vip_key

Action: TypeAlias = Literal["endpoints", "reject", "drop", "none"]


class Answer(Struct, frozen=True):
    """`none`: the packet is for no Service. `masquerade`: regardless of the selected endpoint."""

    action: Action
    endpoints: tuple[str, ...]
    masquerade: bool
    reason: str


def resolve(resolver: ServiceResolver, source: IPAddress, target: IPAddress, port: int, protocol: Protocol) -> Answer:
    """For the first packet of a connection. Raises ValueError if source and target are of different families."""
    if source.version != target.version:
        raise ValueError(f"{source} and {target} are not of one address family")
    found = _find(resolver, target.packed, port, protocol)
    if found is None:
        return _without_service(resolver, target, port, protocol)
    resolved, vip = found
    if not _may_use(resolver, resolved.spec, vip, source.packed):
        return Answer("drop", (), False, f"{source} is not in the loadBalancerSourceRanges of {resolved.name}")
    return _routed(resolver, resolved, vip, source)


def client_location(resolver: ServiceResolver, address: bytes) -> ClientLocation:
    """Whether the client is a pod, this node or outside."""
    if address in resolver.node.addresses:
        return "node"
    return "pod" if is_in(address, resolver.config.pod_cidrs) else "outside"


def _find(resolver: ServiceResolver, target: bytes, port: int, protocol: Protocol) -> tuple[ResolvedPort, Vip] | None:
    """A Service's address takes precedence over node ports."""
    key = vip_key(target, protocol, port)
    spec = resolver.vip_owners.owner(key)
    if spec is None and target in resolver.node_port_addresses:
        key = node_port_key(Family.of_packed(target), protocol, port)
        spec = resolver.vip_owners.owner(key)
    if spec is None:
        return None
    vip = next(vip for vip in spec.vips if key_of(spec, vip) == key)
    return next((each, vip) for each in resolver.services[spec.key].ports if each.spec is spec)


def _without_service(resolver: ServiceResolver, target: IPAddress, port: int, protocol: Protocol) -> Answer:
    if target.packed in resolver.cluster_ips:
        return Answer("reject", (), False, f"{target} is a cluster IP, but its Service has no port {port}/{protocol}")
    if is_in(target.packed, resolver.config.service_cidrs):
        return Answer("drop", (), False, f"{target} is in the service network, but no Service has it")
    refusal = resolver.refusal(target.packed)
    because = f"; {refusal}" if refusal is not None else ""
    return Answer("none", (), False, f"no Service is at {format_endpoint(target.packed, port)}/{protocol}{because}")


def _may_use(resolver: ServiceResolver, spec: PortSpec, vip: Vip, source: bytes) -> bool:
    """A packet of this node to a load balancer's address may have that address as its source: the node's addresses count."""
    if vip.kind != "load-balancer" or not spec.source_ranges or is_in(source, spec.source_ranges):
        return True
    own = any(each.kind == "load-balancer" and each.address == source for each in spec.vips)
    return own and any(is_in(address, spec.source_ranges) for address in resolver.node.addresses)


LOCATIONS: dict[ClientLocation, str] = {"pod": "a pod", "node": "this node", "outside": "outside"}
KINDS: dict[VipKind, str] = {
    "cluster": "cluster IP",
    "load-balancer": "load balancer address",
    "external": "external IP",
    "node-port": "node port",
}


def _routed(resolver: ServiceResolver, resolved: ResolvedPort, vip: Vip, source: IPAddress) -> Answer:
    location = client_location(resolver, source.packed)
    slots, masquerade = resolved.route(vip.kind, location, masquerade=resolver.config.cluster_ip_masquerade)
    known = bool(resolver.config.pod_cidrs)
    client = LOCATIONS[location] if known or location == "node" else "a pod or outside"
    what = f"{KINDS[vip.kind]} of {resolved.name} from {client}"
    if slots == "reject":
        return Answer("reject", (), False, f"{what}: no endpoint is ready")
    if slots == "drop":
        policy = "internalTrafficPolicy" if vip.kind == "cluster" else "externalTrafficPolicy"
        return Answer("drop", (), False, f"{what}: {policy} is Local, and all endpoints are on other nodes")
    records = sorted(set(resolved.records(slots)))
    own = [record for record in records if record[:-2] == source.packed]
    endpoints = tuple(format_endpoint(record[:-2], int.from_bytes(record[-2:])) for record in records)
    chosen = f"{what}: one of {len(records)} endpoints" if len(records) > 1 else f"{what}: one endpoint"
    if masquerade or own == records:
        because = "" if masquerade else ", since the client is its own endpoint"
        return Answer("endpoints", endpoints, True, f"{chosen}, masqueraded{because}")
    unless = " unless the client's own endpoint is chosen" if own else ""
    because = "" if known else ", since no pod network is known"
    return Answer("endpoints", endpoints, False, f"{chosen}, source kept{because}{unless}")
