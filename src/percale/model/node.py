"""A machine of the cluster."""

from __future__ import annotations

from typing import ClassVar

from percale.model.addresses import Network, check_network, parse_network
from percale.model.condition import Condition, holds
from percale.model.meta import Object, Part


class Taint(Part, frozen=True, kw_only=True):
    """What keeps pods away from a node."""

    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Part, frozen=True, kw_only=True):
    """`podCIDRs` is given where the cluster, not Percale, cuts the pod network; its first is `podCIDR`."""

    podCIDR: str | None = None
    podCIDRs: tuple[str, ...] = ()
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()

    def __post_init__(self) -> None:
        for cidr in (*self.podCIDRs, *filter(None, (self.podCIDR,))):
            check_network(cidr)


class NodeAddress(Part, frozen=True, kw_only=True):
    """`type` is InternalIP, ExternalIP, Hostname, …; an address of the last is a name."""

    type: str
    address: str


class NodeStatus(Part, frozen=True, kw_only=True):
    """What the node reports of itself."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Object, frozen=True, kw_only=True):
    """One agent runs on each."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Node"
    NAMESPACED: ClassVar[bool] = False

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def pod_cidrs(self) -> tuple[Network, ...]:
        """The subnets that the cluster gave to this node's pods; empty: none."""
        cidrs = self.spec.podCIDRs or tuple(filter(None, (self.spec.podCIDR,)))
        return tuple(parse_network(cidr) for cidr in cidrs)

    @property
    def ready(self) -> bool:
        return holds(self.status.conditions, "Ready")
