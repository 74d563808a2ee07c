"""Where would a packet seen on this node go, and is its source kept? One pure function over the table that is also rendered.

Called by the command `percale service resolve`, by explain, and by kernel tests that hold real packets against it.
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
from percale.service.vip_conflicts import node_port_key, vip_key

Action: TypeAlias = Literal["endpoints", "reject", "drop", "none"]


class Answer(Struct, frozen=True):
    """`none`: no Service's matter. `masquerade` is true when it is so whichever of the endpoints is chosen."""

    action: Action
    endpoints: tuple[str, ...]
    masquerade: bool
    reason: str


def resolve(table: ServiceResolver, source: IPAddress, target: IPAddress, port: int, protocol: Protocol) -> Answer:
    """The first packet of a connection. Raises ValueError when source and target are of two families."""
    if source.version != target.version:
        raise ValueError(f"{source} and {target} are not of one address family")
    found = _find(table, target.packed, port, protocol)
    if found is None:
        return _without_service(table, target, port, protocol)
    resolved, vip = found
    if not _may_use(table, resolved.spec, vip, source.packed):
        return Answer("drop", (), False, f"{source} is not in the loadBalancerSourceRanges of {resolved.name}")
    return _routed(table, resolved, vip, source)


def client_location(table: ServiceResolver, address: bytes) -> ClientLocation:
    """What Services see in a client's address."""
    if address in table.node.addresses:
        return "node"
    return "pod" if is_in(address, table.config.pod_cidrs) else "outside"


def _find(table: ServiceResolver, target: bytes, port: int, protocol: Protocol) -> tuple[ResolvedPort, Vip] | None:
    """A Service's own address comes before the node's ports."""
    held = table.vip_owners.owner(vip_key(target, protocol, port))
    if held is None and target in table.node_port_addresses:
        family = Family.of_packed(target)
        held = table.vip_owners.owner(node_port_key(family, protocol, port))
    if held is None:
        return None
    spec, vip = held
    return next((each, vip) for each in table.services[spec.key].ports if each.spec is spec)


def _without_service(table: ServiceResolver, target: IPAddress, port: int, protocol: Protocol) -> Answer:
    if target.packed in table.cluster_ips:
        return Answer("reject", (), False, f"{target} is a cluster IP, but its Service has no port {port}/{protocol}")
    if is_in(target.packed, table.config.service_cidrs):
        return Answer("drop", (), False, f"{target} is in the service network, but no Service has it")
    refusal = table.refusal(target.packed)
    because = f"; {refusal}" if refusal is not None else ""
    return Answer("none", (), False, f"no Service is at {format_endpoint(target.packed, port)}/{protocol}{because}")


def _may_use(table: ServiceResolver, spec: PortSpec, vip: Vip, source: bytes) -> bool:
    """A packet of this node to a load balancer's address may have that address as its source: the node counts."""
    if vip.kind != "load-balancer" or not spec.source_ranges or is_in(source, spec.source_ranges):
        return True
    own = any(each.kind == "load-balancer" and each.address == source for each in spec.vips)
    return own and any(is_in(address, spec.source_ranges) for address in table.node.addresses)


PLACES: dict[ClientLocation, str] = {"pod": "a pod", "node": "this node", "outside": "outside"}
KINDS: dict[VipKind, str] = {
    "cluster": "cluster IP",
    "load-balancer": "load balancer address",
    "external": "external IP",
    "node-port": "node port",
}


def _routed(table: ServiceResolver, resolved: ResolvedPort, vip: Vip, source: IPAddress) -> Answer:
    place = client_location(table, source.packed)
    slots, masquerade = resolved.route(vip.kind, place, masquerade_all=table.config.masquerade_all)
    what = f"{KINDS[vip.kind]} of {resolved.name} from {PLACES[place]}"
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
    return Answer("endpoints", endpoints, False, f"{chosen}, source kept{unless}")
