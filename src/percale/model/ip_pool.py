"""Calico's IPPool and IPReservation as they are, and AddressBlock: the part of a pool that a node has.

Source: projectcalico.org/v3 API. Fields without effect here are of type `Ignored` (`model/bgp.py`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from percale.model.addresses import IPNetwork, parse_network
from percale.model.bgp import CalicoObject, Ignored
from percale.model.ip_family import Family
from percale.model.meta import Integer, Object, ObjectMeta, Part
from percale.model.subnet_lease import NodeSubnets, lease_name

BLOCK_SIZES = {Family.IPV4: 26, Family.IPV6: 122}
"""Prefix lengths of blocks where the pool does not say one."""
POOL_ANNOTATIONS = {Family.IPV4: "cni.projectcalico.org/ipv4pools", Family.IPV6: "cni.projectcalico.org/ipv6pools"}
"""Of a pod or a namespace: a JSON list of names or CIDRs of pools."""

TunnelMode = Literal["Always", "CrossSubnet", "Never"]


class IPPoolSpec(Part, frozen=True, kw_only=True):
    """Addresses for pods. Without selectors it is for all nodes and namespaces."""

    cidr: str
    blockSize: Integer | None = None
    ipipMode: TunnelMode | None = None
    vxlanMode: TunnelMode | None = None
    natOutgoing: bool = False
    disabled: bool = False
    """No new addresses; those in use stay."""
    nodeSelector: str = ""
    namespaceSelector: str = ""
    allowedUses: tuple[Literal["Workload", "Tunnel", "LoadBalancer"], ...] = ()
    assignmentMode: Literal["Automatic", "Manual"] | None = None
    """Manual: only for pods that name it."""
    disableBGPExport: Ignored = None
    ipip: Ignored = None

    @property
    def network(self) -> IPNetwork:
        return parse_network(self.cidr)

    @property
    def block_size(self) -> int:
        """The prefix length of its blocks."""
        return self.blockSize or max(BLOCK_SIZES[Family(self.network.version)], self.network.prefixlen)


class IPPool(CalicoObject, frozen=True, kw_only=True):
    KIND: ClassVar[str] = "IPPool"
    PLURAL: ClassVar[str] = "ippools"

    spec: IPPoolSpec


class IPReservationSpec(Part, frozen=True, kw_only=True):
    """Addresses that a pod has only if it asks for them."""

    reservedCIDRs: tuple[str, ...] = ()


class IPReservation(CalicoObject, frozen=True, kw_only=True):
    KIND: ClassVar[str] = "IPReservation"
    PLURAL: ClassVar[str] = "ipreservations"

    spec: IPReservationSpec = IPReservationSpec()


class AddressBlockSpec(Part, frozen=True, kw_only=True):
    """The node has all addresses of the block, and knows itself which of them are in use."""

    cidr: str
    node: str


class AddressBlock(Object, frozen=True, kw_only=True):
    """Named by its network, so that two nodes cannot create the same one: `10.245.1.64-26`."""

    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "AddressBlock"
    PLURAL: ClassVar[str] = "addressblocks"
    NAMESPACED: ClassVar[bool] = False

    spec: AddressBlockSpec

    @property
    def network(self) -> IPNetwork:
        return parse_network(self.spec.cidr)


def make_block(network: IPNetwork, node: str) -> AddressBlock:
    """The block with the name of its network."""
    name = lease_name(NodeSubnets(network))
    return AddressBlock(metadata=ObjectMeta(name=name), spec=AddressBlockSpec(cidr=str(network), node=node))
