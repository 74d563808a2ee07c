"""What a backend is: pure functions from this node and a peer's lease to kernel objects.

The agent hands the objects to the reconciler under one source per peer, so a peer's change affects its own objects only,
and objects deleted by others are restored without the backend.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Protocol

from msgspec import Struct

from percale.kernel.protocol import Interface
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import IPNetwork, KernelObject


class LocalNode(Struct, frozen=True):
    """This node as its backend sees it.

    `interface` carries the underlay (`interface_v6` when IPv6 leaves by another one), `on_link` are the networks that
    it reaches without a gateway: they decide between tunnel and direct route.
    """

    name: str
    subnet: IPv4Network | None
    ipv6_subnet: IPv6Network | None
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    interface: Interface
    interface_v6: Interface
    on_link: frozenset[IPNetwork]


class Backend(Protocol):
    """One way to carry packets between nodes."""

    type: str

    def pod_mtu(self, node: LocalNode) -> int:
        """The MTU of pods' devices, in bytes."""

    def lease_data(self, node: LocalNode) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """This node's `backendData` and `backendV6Data`, for its peers."""

    def check(self, node: LocalNode) -> None:
        """Raises BadConfig when this backend cannot work on this node."""

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The objects needed once per node."""

    def peer(self, node: LocalNode, lease: SubnetLease) -> tuple[KernelObject, ...]:
        """The objects for one peer; families that either node lacks, or that have a problem, are left out."""

    def problem(self, node: LocalNode, lease: SubnetLease) -> str | None:
        """Why `peer` left out a family that both sides have; None when all is well."""
