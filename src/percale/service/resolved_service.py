"""A Service resolved for this node: input of the renderer and of packet lookups. Made by `resolver.py`.

client sends to …       a pod                        the node itself              any other
cluster IP              internal, source kept *      internal, masqueraded        internal, masqueraded
others, policy Cluster  cluster, masqueraded         cluster, masqueraded         cluster, masqueraded
others, policy Local    cluster, source kept         cluster, masqueraded         local, source kept

internal: the cluster's endpoints, or with internalTrafficPolicy Local those of this node
*: unless masqueradeAll. A client that is its own endpoint (hairpin) is always masqueraded. When no pod network is known, a pod
is "any other", and nobody is masqueraded towards a cluster IP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.service.endpoint_selection import Record
from percale.service.node_context import ClusterIPMasquerade
from percale.service.service_ports import PortName, PortSpec, Vip, VipKind
from percale.service.strategies import Strategy

ClientLocation: TypeAlias = Literal["pod", "node", "outside"]
"""Where a client is: in a pod of the cluster, on this node, or anywhere else."""

NoEndpointsAction: TypeAlias = Literal["reject", "drop"]
"""What happens without endpoints. `drop`: other nodes have some."""

Slots: TypeAlias = bytes
"""Packed records in the order of the strategy's slots."""


class ResolvedPort(Struct, frozen=True, gc=False):
    """One service port in one address family. `vips` are those that it owns, not all that it requests."""

    spec: PortSpec
    vips: tuple[Vip, ...]
    cluster: Slots
    local: Slots
    """Empty when neither traffic policy is Local."""
    anywhere: bool
    """Whether any node has an endpoint."""

    @property
    def name(self) -> PortName:
        return self.spec.name

    @property
    def family(self) -> Family:
        return self.spec.family

    @property
    def strategy(self) -> Strategy:
        return self.spec.strategy

    @property
    def record_size(self) -> int:
        """Bytes of a record: an address and a port."""
        return self.spec.family.size + 2

    @property
    def cluster_ip_clients(self) -> Slots | NoEndpointsAction:
        """Endpoints for clients of the cluster IP."""
        return self._or_action(self.local if self.spec.internal_local else self.cluster)

    @property
    def node_local_clients(self) -> Slots | NoEndpointsAction:
        """Endpoints for pods and this node, as clients of another address of it."""
        return self._or_action(self.cluster)

    @property
    def external_clients(self) -> Slots | NoEndpointsAction:
        """Endpoints for all other clients of such an address."""
        return self._or_action(self.local if self.spec.external_local else self.cluster)

    def _or_action(self, slots: Slots) -> Slots | NoEndpointsAction:
        return slots or ("drop" if self.anywhere else "reject")

    def route(
        self, kind: VipKind, location: ClientLocation, *, masquerade: ClusterIPMasquerade
    ) -> tuple[Slots | NoEndpointsAction, bool]:
        """(endpoints or action, whether the source is masqueraded regardless of the selected endpoint)"""
        if kind == "cluster":
            return self.cluster_ip_clients, masquerade == "all" or (masquerade == "not-pods" and location != "pod")
        if not self.spec.external_local:
            return self.external_clients, True
        return (
            (self.external_clients, False) if location == "outside" else (self.node_local_clients, location == "node")
        )

    def records(self, slots: Slots) -> Iterator[Record]:
        """The records one by one; an endpoint with several slots is repeated."""
        size = self.record_size
        return iter([slots[start : start + size] for start in range(0, len(slots), size)])


class ResolvedService(Struct, frozen=True, gc=False):
    """All ports of a Service. `local_ready`: this node's ready endpoints, as its health check reports."""

    key: ObjectKey
    ports: tuple[ResolvedPort, ...]
    health_check_port: int | None
    local_ready: int
    problems: tuple[str, ...]
