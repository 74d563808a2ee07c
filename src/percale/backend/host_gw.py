"""The host-gw backend: a plain route to each peer's subnet; all nodes share a network segment."""

from __future__ import annotations

from typing import Any

from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import LocalNode
from percale.errors import BadConfig
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import KernelObject


class HostGw:
    """See `Backend`."""

    type = "host-gw"

    def pod_mtu(self, node: LocalNode) -> int:
        """The interface's own, the smaller one of two."""
        return min(node.interface.mtu, node.interface_v6.mtu)

    def lease_data(self, _node: LocalNode) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """None needed."""
        return None, None

    def check(self, node: LocalNode) -> None:
        """Peers send to the public address: it must be this node's own."""
        for address, interface in ((node.public_ip, node.interface), (node.public_ipv6, node.interface_v6)):
            if address is not None and all(address != mine.ip for mine in interface.addresses):
                raise BadConfig(
                    f"host-gw: public address {address} is not an address of {interface.name}",
                    where=f"node {node.name}",
                    hint="leave out --public-ip, choose the interface with --iface, or use vxlan",
                )

    def device(self, _node: LocalNode) -> tuple[KernelObject, ...]:
        """None."""
        return ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> tuple[KernelObject, ...]:
        """One route per family."""
        if type_problem(self.type, lease) is not None:
            return ()
        return tuple(obj for path in paths(node, lease) if path.on_link for obj in path.direct)

    def problem(self, node: LocalNode, lease: SubnetLease) -> str | None:
        """Another backend, or a gateway in between."""
        away = [str(path.gateway) for path in paths(node, lease) if not path.on_link]
        beyond = f"{' and '.join(away)} is behind a gateway: host-gw needs all nodes on one network segment; use vxlan"
        return type_problem(self.type, lease) or (beyond if away else None)
