"""The ipip backend: one device, and a route per peer. Of all tunnels it has the least overhead: an IPv4 header.

    10.244.2.7 ─ route 10.244.2.0/24 via PublicIP dev flannel.ipip onlink ─ the gateway is the outer destination

With DirectRouting a peer that needs no gateway gets a plain route instead (Calico's CrossSubnet).
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_interface

from percale.backend.interface_selection import tunnel_source
from percale.backend.node_checks import require_mtu
from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import KernelBackend, LocalNode, PeerObjects
from percale.model.backend_options import IpipOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Ipip
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import Address, KernelObject, Link, Route

DEVICE = "flannel.ipip"
OVERHEAD = 20
"""Bytes of the outer IPv4 header."""


class IpipBackend(KernelBackend):
    """See `Backend`. The network has IPv4 alone: `netconf.py` sees to that."""

    type = "ipip"

    def __init__(self, options: IpipOptions) -> None:
        self._options = options

    def pod_mtu(self, node: LocalNode) -> int:
        return node.interface.mtu - OVERHEAD

    def check(self, node: LocalNode) -> None:
        """The MTU must leave room for the smallest packet."""
        require_mtu(self.type, node, self.pod_mtu(node))

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The tunnel, with the first address of the node's subnet."""
        source = self._source(node)
        if source is None:
            return ()
        subnet = node.families[Family.IPV4].subnet
        return (
            Link(DEVICE, Ipip(source), mtu=self.pod_mtu(node)),
            Address(DEVICE, ip_interface(subnet.network_address)),
        )

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """The local address, which takes IP protocol 4."""
        source = self._source(node)
        return (TunnelEnd(source, None),) if source is not None else ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """A direct route, or one into the tunnel. Its problem: another backend."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        found = [path for path in paths(node, lease) if isinstance(path.gateway, IPv4Address)]
        return PeerObjects(
            tuple(
                path.direct
                if self._options.direct_routing and path.on_link
                else Route(path.subnet, DEVICE, path.gateway, onlink=True)
                for path in found
            ),
            tuple(path.gateway for path in found),
        )

    @staticmethod
    def _source(node: LocalNode) -> IPv4Address | None:
        local = node.families.get(Family.IPV4)
        source = tunnel_source(local) if local is not None else None
        return IPv4Address(source) if source is not None else None
