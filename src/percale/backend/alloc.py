"""The alloc backend, flannel's: each node has its subnet, and who carries packets between nodes is not Percale's to say.

For clouds and routers that know the nodes' subnets, and for a cluster of one node.
"""

from __future__ import annotations

from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import KernelBackend, LocalNode, PeerObjects
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import KernelObject


class AllocBackend(KernelBackend):
    """See `Backend`."""

    type = "alloc"

    def pod_mtu(self, node: LocalNode) -> int:
        """The interface's own."""
        return node.underlay_mtu

    def check(self, node: LocalNode) -> None:
        """Nothing is needed of it."""

    def device(self, _node: LocalNode) -> tuple[KernelObject, ...]:
        """None."""
        return ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """No objects. Its problem: another backend."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        return PeerObjects(addresses=tuple(path.gateway for path in paths(node, lease)))
