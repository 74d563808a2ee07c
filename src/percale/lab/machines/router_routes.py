"""The router's routes for hosts outside the cluster: to pods and to load balancers' addresses. Pure.

Called by `cluster`; `fabric` installs them. They stand for a cloud's load balancer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from percale.model.addresses import IPAddress, IPNetwork, is_address
from percale.model.endpoints import SERVICE_LABEL, Endpoint, EndpointSlice
from percale.model.meta import ObjectKey
from percale.model.node import Node
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.service.service_ports import is_external_local


class RouterRoute(NamedTuple):
    """A subnet and the nodes' addresses as next hops: packets of one connection go to one of them."""

    subnet: IPNetwork
    nodes: tuple[IPAddress, ...]


def pod_routes(leases: Iterable[SubnetLease]) -> Iterator[RouterRoute]:
    """Each node's pod subnets."""
    for lease in leases:
        for _, subnet, node, _ in lease.spec.families:
            if subnet is not None and node is not None:
                yield RouterRoute(subnet, (node,))


def service_routes(
    services: Iterable[Service],
    slices: Iterable[EndpointSlice],
    nodes: Sequence[Node],
    machine_networks: Collection[IPNetwork],
) -> Iterator[RouterRoute]:
    """Load balancers' addresses and external IPs, except those in the segments (`machine_networks`).

    The next hops are all nodes; with externalTrafficPolicy Local those with an endpoint.
    """
    addressed = [(service, addresses) for service in services if (addresses := _addresses(service))]
    if not addressed:
        return
    nodes_by_service = _nodes_by_service(slices)
    seen: set[IPAddress] = set()
    for service, addresses in addressed:
        names = nodes_by_service[service.key] if is_external_local(service) else {node.metadata.name for node in nodes}
        for address in addresses:
            if address in seen or any(address in net for net in machine_networks if net.version == address.version):
                continue
            seen.add(address)
            addresses_of_nodes = [_address_of(node, address.version) for node in nodes if node.metadata.name in names]
            if found := tuple(address_of_node for address_of_node in addresses_of_nodes if address_of_node is not None):
                yield RouterRoute(ip_network(address), found)


def _addresses(service: Service) -> list[IPAddress]:
    """Invalid ones are skipped: agents report them."""
    texts = [each.ip for each in service.status.loadBalancer.ingress if each.ip]
    return list(dict.fromkeys(map(ip_address, filter(is_address, (*texts, *service.spec.externalIPs)))))


def _nodes_by_service(slices: Iterable[EndpointSlice]) -> Mapping[ObjectKey, set[str]]:
    """Nodes with ready endpoints; where there are none of these, those whose endpoints still serve."""
    ready, serving = defaultdict[ObjectKey, set[str]](set), defaultdict[ObjectKey, set[str]](set)
    for each in slices:
        key = ObjectKey(each.metadata.namespace, each.metadata.labels.get(SERVICE_LABEL, ""))
        for endpoint in each.endpoints:
            if endpoint.nodeName:
                (ready if endpoint.conditions.ready is not False else serving)[key] |= _serving(endpoint)
    for key, names in serving.items():
        if not ready[key]:
            ready[key] = names
    return ready


def _serving(endpoint: Endpoint) -> set[str]:
    conditions = endpoint.conditions
    return {endpoint.nodeName or ""} if conditions.ready is not False or conditions.serving else set()


def _address_of(node: Node, version: int) -> IPAddress | None:
    addresses = map(ip_address, node.status.internal_ips)
    return next((address for address in addresses if address.version == version), None)
