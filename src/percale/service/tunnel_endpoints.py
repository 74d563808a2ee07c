"""Endpoints that are no endpoints: a tunnel between nodes, which takes for a node's whatever gets into it. Called by `table`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from percale.model.meta import ObjectKey
from percale.model.subnet_lease import SubnetLease
from percale.service.endpoint_slices import SliceFacts, SlicePort
from percale.service.service_ports import format_endpoint


class Tunnels:
    """The addresses of all nodes that have a lease: the public ones, and those of tunnel and bridge, a subnet's first two."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(port.to_bytes(2) for port in ports)
        self._leases: dict[ObjectKey, tuple[bytes, ...]] = {}
        self._ends: dict[bytes, int] = {}
        """How many leases have this address."""

    @property
    def leases(self) -> Iterator[ObjectKey]:
        """Those that are known."""
        return iter(self._leases)

    def put(self, lease: SubnetLease) -> bool:
        """Whether its addresses are others now."""
        return self._change(lease.key, _addresses(lease))

    def remove(self, key: ObjectKey) -> bool:
        """Whether it had addresses."""
        return self._change(key, ())

    def _change(self, key: ObjectKey, addresses: tuple[bytes, ...]) -> bool:
        old = self._leases.pop(key, ())
        if addresses:
            self._leases[key] = addresses
        if addresses == old:
            return False
        for each in addresses:
            self._ends[each] = self._ends.get(each, 0) + 1
        for each in old:
            self._ends[each] -= 1
            if not self._ends[each]:
                del self._ends[each]
        return True

    def has(self, record: bytes, protocol: str) -> bool:
        """An endpoint, with its port, is one."""
        return protocol == "UDP" and record[-2:] in self._ports and record[:-2] in self._ends

    def has_tunnel_port(self, facts: SliceFacts) -> bool:
        """It has such a port."""
        return any(self._is_ours(port) for port in facts.ports)

    def without_tunnels(self, facts: SliceFacts) -> tuple[SliceFacts, ...]:
        """The slice without tunnels, and with a problem for each; as two when its other ports keep their endpoints."""
        if not self.has_tunnel_port(facts):
            return (facts,)
        size = facts.size
        addresses = [facts.addresses[start : start + size] for start in range(0, len(facts.addresses), size)]
        kept = [index for index, address in enumerate(addresses) if address not in self._ends]
        if len(kept) == len(addresses):
            return (facts,)
        left = [address for address in addresses if address in self._ends]
        others = replace(
            facts,
            ports=tuple(port for port in facts.ports if not self._is_ours(port)),
            problems=(
                *facts.problems,
                *(
                    _problem(facts, address, number)
                    for number in sorted({port.number for port in facts.ports if self._is_ours(port)})
                    for address in left
                ),
            ),
        )
        guarded = replace(
            facts,
            ports=tuple(filter(self._is_ours, facts.ports)),
            addresses=b"".join(addresses[index] for index in kept),
            states=bytes(facts.states[index] for index in kept),
            nodes=tuple(facts.nodes[index] for index in kept),
            hints=tuple(facts.hints[index] for index in kept) if facts.hints else (),
            problems=(),
        )
        return others, guarded

    def _is_ours(self, port: SlicePort) -> bool:
        return port.protocol == "UDP" and port.number in self._ports


def _problem(facts: SliceFacts, address: bytes, port: bytes) -> str:
    where = f"EndpointSlice {ObjectKey(facts.service.namespace, facts.name)}"
    at = format_endpoint(address, int.from_bytes(port))
    return f"{where}: {at}/UDP is the tunnel of a node, and no endpoint"


def _addresses(lease: SubnetLease) -> tuple[bytes, ...]:
    spec = lease.spec
    public = [address.packed for address in spec.public_ips]
    subnets = [net for net in spec.subnets if net.num_addresses > 1]
    return (*public, *(net[index].packed for net in subnets for index in (0, 1)))
