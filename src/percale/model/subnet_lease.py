"""A node's subnet lease: the node's part of the pod network, and how its peers reach it.

The fields are those of flannel's lease (etcd value, Kubernetes node annotations), so that a store can use either format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from percale.model.addresses import IPAddress, IPNetwork
from percale.model.ip_family import Family
from percale.model.meta import Integer, Object, ObjectMeta, Part

T = TypeVar("T")

MACHINE = "percale.io/machine"
"""Annotation: the machine that holds the lease; distinguishes two machines with one node name."""
RESERVED = "percale.io/reserved"
"""Annotation: an operator's reservation; never expires, even after its node has used it."""

OTHER_BACKEND = "percale.io/other-backend"
"""Annotation: by which backend the node is reached as well, while the cluster changes from one to another."""

BackendData: TypeAlias = dict[str, str | Integer | float | bool | None] | str
"""A text is the extension backend's."""


class NodeSubnets(tuple[IPNetwork, ...]):
    """One node's subnets, one per address family of the network, IPv4 first."""

    __slots__ = ()

    def __new__(cls, *subnets: IPNetwork | None) -> NodeSubnets:
        """None stands for a family that the node lacks."""
        return super().__new__(cls, [net for net in subnets if net is not None])

    def __str__(self) -> str:
        return " and ".join(map(str, self)) or "no subnet"

    @property
    def ipv4(self) -> IPv4Network | None:
        """For a document with a field for each family."""
        return _first(IPv4Network, self)

    @property
    def ipv6(self) -> IPv6Network | None:
        """Likewise."""
        return _first(IPv6Network, self)


class LeasedFamily(NamedTuple):
    """A lease's fields of one address family."""

    family: Family
    subnet: IPNetwork | None
    public_ip: IPAddress | None
    data: BackendData | None

    @property
    def fields(self) -> Mapping[str, Any]:
        """Of the data; none if it is a text."""
        return self.data if isinstance(self.data, dict) else {}


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

    @classmethod
    def of(cls, node: str, backend_type: str, families: Iterable[LeasedFamily]) -> SubnetLeaseSpec:
        """The document with these fields, one `LeasedFamily` per family at most."""
        given = tuple(families)
        subnets = NodeSubnets(*(each.subnet for each in given))
        public_ips = [each.public_ip for each in given]
        data = {each.family: each.data for each in given}
        return cls(
            node=node,
            subnet=subnets.ipv4,
            ipv6Subnet=subnets.ipv6,
            publicIP=_first(IPv4Address, public_ips),
            publicIPv6=_first(IPv6Address, public_ips),
            backendType=backend_type,
            backendData=data.get(Family.IPV4),
            backendV6Data=data.get(Family.IPV6),
        )

    @property
    def families(self) -> tuple[LeasedFamily, LeasedFamily]:
        """The pairs of fields."""
        return (
            LeasedFamily(Family.IPV4, self.subnet, self.publicIP, self.backendData),
            LeasedFamily(Family.IPV6, self.ipv6Subnet, self.publicIPv6, self.backendV6Data),
        )

    @property
    def subnets(self) -> NodeSubnets:
        return NodeSubnets(self.subnet, self.ipv6Subnet)

    @property
    def public_ips(self) -> tuple[IPAddress, ...]:
        """IPv4 first."""
        return tuple([address for address in (self.publicIP, self.publicIPv6) if address is not None])


class SubnetLease(Object, frozen=True, kw_only=True):
    """Named by its subnets, so that two nodes cannot create the same one: `10.5.52.0-24`, dual `…-24&fd00--…-64`."""

    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "SubnetLease"
    PLURAL: ClassVar[str] = "subnetleases"
    NAMESPACED: ClassVar[bool] = False

    spec: SubnetLeaseSpec


def _first(kind: type[T], values: Iterable[object]) -> T | None:
    """The first one of this type."""
    return next((each for each in values if isinstance(each, kind)), None)


def lease_name(subnets: NodeSubnets) -> str:
    """The name of the lease of these subnets, as in flannel's etcd keys (`:` becomes `-`)."""
    return "&".join(str(net).replace("/", "-").replace(":", "-") for net in subnets)


def make_lease(spec: SubnetLeaseSpec) -> SubnetLease:
    """The lease with the name of its subnets."""
    return SubnetLease(metadata=ObjectMeta(name=lease_name(spec.subnets)), spec=spec)
