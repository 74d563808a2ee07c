"""A node's subnet lease: the node's part of the pod network, and how its peers reach it.

The fields are those of flannel's lease (etcd value, Kubernetes node annotations), so that a store can use either format.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ClassVar, TypeAlias

from percale.model.meta import Integer, Object, ObjectMeta, Part

BackendData: TypeAlias = dict[str, str | Integer | float | bool | None]


class SubnetLeaseSpec(Part, frozen=True):
    """`backendData` is the backend's payload for IPv4, `backendV6Data` for IPv6 (vxlan: VNI and VtepMAC)."""

    node: str
    subnet: IPv4Network | None = None
    ipv6Subnet: IPv6Network | None = None
    publicIP: IPv4Address | None = None
    publicIPv6: IPv6Address | None = None
    backendType: str = ""
    backendData: BackendData | None = None
    backendV6Data: BackendData | None = None


class SubnetLease(Object, frozen=True, kw_only=True):
    """Named by its subnets, so that two nodes cannot create the same one: `10.5.52.0-24`, dual `…-24&fd00--…-64`."""

    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "SubnetLease"
    NAMESPACED: ClassVar[bool] = False

    spec: SubnetLeaseSpec


def lease_name(subnet: IPv4Network | None, ipv6_subnet: IPv6Network | None) -> str:
    """The name of the lease of these subnets, as in flannel's etcd keys (`:` becomes `-`)."""
    parts = [str(net).replace("/", "-").replace(":", "-") for net in (subnet, ipv6_subnet) if net is not None]
    return "&".join(parts)


def make_lease(spec: SubnetLeaseSpec) -> SubnetLease:
    """The lease with the name of its subnets."""
    return SubnetLease(metadata=ObjectMeta(name=lease_name(spec.subnet, spec.ipv6Subnet)), spec=spec)
