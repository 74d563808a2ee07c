"""The udp backend, flannel's oldest: a program of our own carries packets between a TUN device and the peers.

    10.244.2.7 ─ route 10.244.2.0/24 dev flannel0 ─▶ tunnel.py ─ the packet as a datagram's payload ─▶ PublicIP:8285

For kernels and networks that have nothing better. IPv4 only, as flannel's.
"""

from __future__ import annotations

from ipaddress import IPv4Network, ip_interface
from pathlib import Path

from percale.backend.interface_selection import tunnel_source
from percale.backend.node_checks import require_mtu
from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import KernelBackend, LocalNode, PeerObjects
from percale.backend.udp.config import OVERHEAD
from percale.backend.udp.tunnel_process import TunnelProcess
from percale.model.backend_options import UdpOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Tun
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import Address, KernelObject, Link, Route, Sysctl

DEVICE = "flannel0"


class UdpBackend(KernelBackend):
    """See `Backend`. The network has IPv4 alone: `netconf.py` sees to that."""

    type = "udp"
    keeps_state = True
    process: TunnelProcess | None = None

    def __init__(self, options: UdpOptions) -> None:
        self._port = options.port

    def load(self, directory: Path) -> None:
        self.process = TunnelProcess(directory, DEVICE, self._port)

    def pod_mtu(self, node: LocalNode) -> int:
        return node.interface.mtu - OVERHEAD

    def check(self, node: LocalNode) -> None:
        require_mtu(self.type, node, self.pod_mtu(node))

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        return (
            Link(DEVICE, Tun(), mtu=self.pod_mtu(node)),
            Sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", "1"),
            Address(DEVICE, ip_interface(node.families[Family.IPV4].subnet.network_address)),
        )

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        source = tunnel_source(node.families[Family.IPV4]) if Family.IPV4 in node.families else None
        return (TunnelEnd(source, self._port),) if source is not None else ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """Its route; the program knows its address."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        found = [path for path in paths(node, lease) if isinstance(path.subnet, IPv4Network)]
        return PeerObjects(tuple(Route(path.subnet, DEVICE) for path in found), tuple(path.gateway for path in found))
