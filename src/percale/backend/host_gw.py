"""The host-gw backend: a plain route to each peer's subnet; all nodes share a network segment."""

from __future__ import annotations

from percale.backend.node_checks import require_own_addresses
from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import KernelBackend, LocalNode, PeerObjects
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import KernelObject


class HostGw(KernelBackend):
    """See `Backend`."""

    type = "host-gw"

    def pod_mtu(self, node: LocalNode) -> int:
        """The interface's own."""
        return node.underlay_mtu

    def check(self, node: LocalNode) -> None:
        """Peers send to the public address: it must be this node's own."""
        require_own_addresses(self.type, node)

    def device(self, _node: LocalNode) -> tuple[KernelObject, ...]:
        """None."""
        return ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """One route per family. Its problem: another backend, or a gateway in between."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        found = list(paths(node, lease))
        near = [path for path in found if path.on_link]
        away = " and ".join(str(path.gateway) for path in found if not path.on_link)
        return PeerObjects(
            tuple(path.direct for path in near),
            tuple(path.gateway for path in near),
            f"{away} is behind a gateway: host-gw needs all nodes on one network segment; use vxlan" if away else None,
        )
