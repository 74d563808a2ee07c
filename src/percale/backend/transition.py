"""Two backends at once: the cluster changes from one to the other, node by node, and no packet is lost.

    PreviousBackend, Backend ─▶ every node takes packets by both ─▶ all have both? ─▶ each is sent to by the new one

A node's lease says by which backend it is sent to, and its annotation OTHER_BACKEND by which it could be as well. `moved`, which
the agent sets once all nodes have both, decides which of the two is which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.backend.protocol import Backend, ExclusiveId, KernelBackend, LocalNode, PeerObjects
from percale.model.ip_family import Family
from percale.model.subnet_lease import OTHER_BACKEND, BackendData, SubnetLease, SubnetLeaseSpec
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import KernelObject, Route


class _Other(Struct, frozen=True, omit_defaults=True):
    """The annotation: a lease's fields of a backend."""

    backendType: str
    backendData: BackendData | None = None
    backendV6Data: BackendData | None = None


class Transition(KernelBackend):
    """See `Backend`. Neither of the two has a process."""

    def __init__(self, before: Backend, after: Backend) -> None:
        self.parts = (before, after)
        self.moved = False

    @property
    def type(self) -> str:
        """That of the lease."""
        return self._published.type

    @property
    def unpublished(self) -> Backend:
        """The other one."""
        return self.parts[not self.moved]

    @property
    def _published(self) -> Backend:
        return self.parts[self.moved]

    @property
    def key_renewal(self) -> Callable[[], bool] | None:
        """Of the one that has a key."""
        return self.parts[0].key_renewal or self.parts[1].key_renewal

    def pod_mtu(self, node: LocalNode) -> int:
        """What both carry."""
        return min(each.pod_mtu(node) for each in self.parts)

    def lease_data(self, node: LocalNode) -> Mapping[Family, BackendData]:
        return self._published.lease_data(node)

    def other_backend(self, node: LocalNode) -> str | None:
        data = self.unpublished.lease_data(node)
        other = _Other(self.unpublished.type, data.get(Family.IPV4), data.get(Family.IPV6))
        return msgspec.json.encode(other).decode()

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterable[ExclusiveId]:
        return (each for part in self.parts for each in part.exclusive_ids(spec))

    def check(self, node: LocalNode) -> None:
        """Both must work."""
        for each in self.parts:
            each.check(node)

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        return tuple(obj for each in self.parts for obj in each.device(node))

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        return tuple(end for each in self.parts for end in each.tunnel_ends(node))

    def obstacle(self, node: LocalNode, lease: SubnetLease) -> str | None:
        """Why this node could not send to that one by the new one; empty if that one lacks it, None if it could."""
        after = self.parts[1]
        for each in (lease, _other_lease(lease)):
            if each is not None and each.spec.backendType == after.type:
                return after.peer(node, each).problem
        return ""

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """It is sent to by the backend of its lease, and by both it may send: for that it needs all but the other's routes."""
        before, after = self.parts
        mine, beside = (after, before) if lease.spec.backendType == after.type else (before, after)
        rendered, other = mine.peer(node, lease), _other_lease(lease)
        if other is None or other.spec.backendType != beside.type:
            return rendered
        objects = [each for each in beside.peer(node, other).objects if not isinstance(each, Route)]
        return replace(rendered, objects=(*rendered.objects, *objects))


def _other_lease(lease: SubnetLease) -> SubnetLease | None:
    """The lease as it would be if the node had the other backend alone."""
    try:
        other = msgspec.json.decode(lease.metadata.annotations.get(OTHER_BACKEND, "null"), type=_Other | None)
    except msgspec.DecodeError:
        return None
    if other is None:
        return None
    data = {"backendData": other.backendData, "backendV6Data": other.backendV6Data}
    return replace(lease, spec=replace(lease.spec, backendType=other.backendType, **data))
