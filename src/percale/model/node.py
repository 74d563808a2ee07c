"""A node of the cluster."""

from __future__ import annotations

from typing import ClassVar

from percale.model.addresses import IPNetwork, check_network, parse_network
from percale.model.condition import Condition, holds
from percale.model.meta import Object, Part


class Taint(Part, frozen=True, kw_only=True):
    """Repels pods from a node."""

    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Part, frozen=True, kw_only=True):
    """`podCIDRs` is set where the cluster, not Percale, allocates node subnets; its first is `podCIDR`."""

    podCIDR: str | None = None
    podCIDRs: tuple[str, ...] = ()
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()

    def __post_init__(self) -> None:
        for cidr in (*self.podCIDRs, *filter(None, (self.podCIDR,))):
            check_network(cidr)


class NodeAddress(Part, frozen=True, kw_only=True):
    """`type` is InternalIP, ExternalIP, Hostname, …; the address of a Hostname is a name."""

    type: str
    address: str


class NodeStatus(Part, frozen=True, kw_only=True):
    """Reported by the node."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def internal_ips(self) -> tuple[str, ...]:
        """The addresses by which the cluster reaches the node."""
        return tuple(each.address for each in self.addresses if each.type == "InternalIP")


class Node(Object, frozen=True, kw_only=True):
    """One agent runs on each node."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"
    NAMESPACED: ClassVar[bool] = False

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def pod_cidrs(self) -> tuple[IPNetwork, ...]:
        """The pod subnets that the cluster allocated to this node."""
        cidrs = self.spec.podCIDRs or tuple(filter(None, (self.spec.podCIDR,)))
        return tuple(parse_network(cidr) for cidr in cidrs)

    @property
    def ready(self) -> bool:
        return holds(self.status.conditions, "Ready")
