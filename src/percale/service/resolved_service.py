"""What a Service means on this node, as the renderer and the resolver take it. Made by `table`.

who sends to …          a pod                        the node itself              anybody else
cluster IP              inside, source kept *        inside, masqueraded          inside, masqueraded
others, policy Cluster  cluster, masqueraded         cluster, masqueraded         cluster, masqueraded
others, policy Local    cluster, source kept         cluster, masqueraded         local, source kept

inside: the cluster's endpoints, or with internalTrafficPolicy Local those of this node
*: unless masqueradeAll. A client whose own endpoint is chosen is masqueraded always.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.meta import ObjectKey
from percale.service.endpoint_selection import Record
from percale.service.node_context import Family
from percale.service.service_ports import PortName, PortSpec, Vip, VipKind
from percale.service.strategies import Strategy

Place: TypeAlias = Literal["pod", "node", "outside"]
"""Where a client is: in a pod of the cluster, on this node, or anywhere else."""

Without: TypeAlias = Literal["reject", "drop"]
"""What to do for want of endpoints. `drop`: there are some, but on other nodes."""

Slots: TypeAlias = bytes
"""Records one after the other, in the order of the strategy's slots: what numpy encodes at once."""


class ResolvedPort(Struct, frozen=True, gc=False):
    """One service port in one address family. `vips` are those that the service has, not all that it wants."""

    spec: PortSpec
    vips: tuple[Vip, ...]
    cluster: Slots
    local: Slots
    """Empty when neither traffic policy is Local."""
    anywhere: bool
    """Some node has an endpoint."""

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
        return 6 if self.spec.family == 4 else 18

    @property
    def inside(self) -> Slots | Without:
        """For whoever uses the cluster IP."""
        return self._or_without(self.local if self.spec.internal_local else self.cluster)

    @property
    def near(self) -> Slots | Without:
        """For pods and this node, who use another address of it."""
        return self._or_without(self.cluster)

    @property
    def outside(self) -> Slots | Without:
        """For all others who do."""
        return self._or_without(self.local if self.spec.external_local else self.cluster)

    def _or_without(self, slots: Slots) -> Slots | Without:
        return slots or ("drop" if self.anywhere else "reject")

    def route(self, kind: VipKind, place: Place, *, masquerade_all: bool) -> tuple[Slots | Without, bool]:
        """(where to, whether the source is masqueraded whichever endpoint is chosen)"""
        if kind == "cluster":
            return self.inside, masquerade_all or place != "pod"
        if not self.spec.external_local:
            return self.outside, True
        return (self.outside, False) if place == "outside" else (self.near, place == "node")

    def records(self, slots: Slots) -> Iterator[Record]:
        """One by one; an endpoint with several slots comes several times."""
        size = self.record_size
        return iter([slots[start : start + size] for start in range(0, len(slots), size)])


class ResolvedService(Struct, frozen=True, gc=False):
    """All ports of a Service. `local_ready` is what its health check tells: this node's ready endpoints."""

    key: ObjectKey
    ports: tuple[ResolvedPort, ...]
    health_check_port: int | None
    local_ready: int
    problems: tuple[str, ...]
