"""The paths between two nodes, per address family, from which every backend builds a peer's objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from percale.backend.protocol import LocalNode
from percale.kernel.protocol import Interface
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import Route


class UnusableFamily(Exception):
    """A family of a peer cannot be used; the text says why. Never leaves this package."""


class Path(Struct, frozen=True):
    """One family's path from this node to a peer: its subnet is reached via `gateway`, its public address."""

    subnet: IPNetwork
    gateway: IPAddress
    interface: Interface
    fields: Mapping[str, Any]
    """Of its backend data."""
    on_link: bool
    """The gateway is reached without another gateway."""

    @property
    def direct(self) -> Route:
        """A plain route instead of the tunnel."""
        return Route(self.subnet, self.interface.name, self.gateway)


def paths(node: LocalNode, lease: SubnetLease) -> Iterator[Path]:
    """The families that both nodes have, IPv4 first."""
    for each in lease.spec.families:
        mine = node.families.get(each.family)
        if mine is not None and mine.public_ip is not None and each.subnet is not None and each.public_ip is not None:
            yield Path(each.subnet, each.public_ip, mine.interface, each.fields, _reaches(node, each.public_ip))


def type_problem(backend_type: str, lease: SubnetLease) -> str | None:
    """A peer must use the same backend type; one that says none (a reservation in etcd, an old flannel) does."""
    theirs = lease.spec.backendType
    return None if theirs in ("", backend_type) else f'its backend is "{theirs}", ours "{backend_type}"'


def _reaches(node: LocalNode, address: IPAddress) -> bool:
    return any(address in network for network in node.on_link)
