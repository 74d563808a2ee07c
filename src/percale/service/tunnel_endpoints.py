"""Refuses endpoints that are tunnels between nodes: what a tunnel receives counts as sent by a node. Used by `resolver.py`."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from percale.model.meta import ObjectKey
from percale.model.subnet_lease import SubnetLease
from percale.service.address_index import AddressIndex
from percale.service.endpoint_slices import SliceFacts, SlicePort
from percale.service.service_ports import format_endpoint


class Tunnels:
    """The addresses of all nodes that have a lease: the public ones, and those of tunnel and bridge, a subnet's first two."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(port.to_bytes(2) for port in ports)
        self.leases = AddressIndex[ObjectKey]()
        """The known leases, with their addresses."""

    def put(self, lease: SubnetLease) -> bool:
        """Whether endpoints may be tunnels now that were not, or the other way round."""
        return bool(self.leases.update(lease.key, _tunnel_addresses(lease)))

    def remove(self, key: ObjectKey) -> bool:
        """The same."""
        return bool(self.leases.update(key, ()))

    def has(self, record: bytes, protocol: str) -> bool:
        """Whether an endpoint, with its port, is a tunnel."""
        return protocol == "UDP" and record[-2:] in self._ports and record[:-2] in self.leases

    def has_tunnel_port(self, facts: SliceFacts) -> bool:
        """Whether it has a tunnel's port."""
        return any(self._is_tunnel_port(port) for port in facts.ports)

    def without_tunnels(self, facts: SliceFacts) -> tuple[SliceFacts, ...]:
        """The slice without tunnels and with a problem for each; two slices if its other ports keep their endpoints."""
        if not self.has_tunnel_port(facts):
            return (facts,)
        addresses = facts.split_addresses
        kept = [index for index, address in enumerate(addresses) if address not in self.leases]
        if len(kept) == len(addresses):
            return (facts,)
        tunnels = [address for address in addresses if address in self.leases]
        others = replace(
            facts,
            ports=tuple(port for port in facts.ports if not self._is_tunnel_port(port)),
            problems=(
                *facts.problems,
                *(
                    _problem(facts, address, number)
                    for number in sorted({port.number for port in facts.ports if self._is_tunnel_port(port)})
                    for address in tunnels
                ),
            ),
        )
        filtered = replace(
            facts,
            ports=tuple(filter(self._is_tunnel_port, facts.ports)),
            addresses=b"".join(addresses[index] for index in kept),
            states=bytes(facts.states[index] for index in kept),
            nodes=tuple(facts.nodes[index] for index in kept),
            hints=tuple(facts.hints[index] for index in kept) if facts.hints else (),
            problems=(),
        )
        return others, filtered

    def _is_tunnel_port(self, port: SlicePort) -> bool:
        return port.protocol == "UDP" and port.number in self._ports


def _problem(facts: SliceFacts, address: bytes, port: bytes) -> str:
    where = f"EndpointSlice {ObjectKey(facts.service.namespace, facts.name)}"
    at = format_endpoint(address, int.from_bytes(port))
    return f"{where}: {at}/UDP is the tunnel of a node, and no endpoint"


def _tunnel_addresses(lease: SubnetLease) -> tuple[bytes, ...]:
    spec = lease.spec
    public = [address.packed for address in spec.public_ips]
    subnets = [net for net in spec.subnets if net.num_addresses > 1]
    return (*public, *(net[index].packed for net in subnets for index in (0, 1)))
