"""The vxlan backend, flannel's default: one device per family, and three entries per peer.

    10.244.2.7 ─ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 ─ neighbour 10.244.2.0 is VtepMAC ─ FDB: VtepMAC is at PublicIP

With DirectRouting a peer that needs no gateway gets a plain route instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from ipaddress import ip_interface
from typing import Any

from percale.backend.interface_selection import address_of
from percale.backend.peer_path import Path, UnusableFamily, paths, type_problem
from percale.backend.protocol import LocalNode
from percale.errors import BadConfig
from percale.kernel.protocol import Interface
from percale.model.backend_options import VxlanOptions
from percale.model.subnet_lease import SubnetLease
from percale.render.link_kinds import Vxlan
from percale.render.objects import Address, FdbEntry, IPAddress, IPNetwork, KernelObject, Link, Neighbour, Route, Sysctl

OVERHEAD = {4: 50, 6: 70}
"""Bytes of the outer Ethernet, IP, UDP and VXLAN headers, by the underlay's IP version."""
LEAST_MTU = {4: 576, 6: 1280}
"""Bytes that pods' packets of this version may have at least (RFC 791, RFC 8200)."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_NOBODY = "00:00:00:00:00:00"
"""In a vxlan device's FDB this is the default entry, for all unknown addresses."""


class VxlanBackend:
    """See `Backend`."""

    type = "vxlan"

    def __init__(self, options: VxlanOptions) -> None:
        self._options = options

    def pod_mtu(self, node: LocalNode) -> int:
        """The smaller one of both families' tunnels, also while a family has no underlay yet."""
        pairs = ((node.subnet, node.interface), (node.ipv6_subnet, node.interface_v6))
        return min(self._mtu(subnet, interface) for subnet, interface in pairs if subnet is not None)

    def lease_data(self, node: LocalNode) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """`{"VNI":1,"VtepMAC":"…"}`; VtepMAC last, for flannel splits the text there."""
        data: dict[int, dict[str, Any]] = {
            subnet.version: {"VNI": self._options.vni, "VtepMAC": self._mac(node, subnet)}
            for subnet, _, _ in _families(node)
        }
        return data.get(4), data.get(6)

    def check(self, node: LocalNode) -> None:
        """The MTU must leave room for the smallest packet."""
        where = f"node {node.name}"
        for subnet, _, interface in _families(node):
            if self._mtu(subnet, interface) < LEAST_MTU[subnet.version]:
                raise BadConfig(
                    f"vxlan leaves IPv{subnet.version} packets {self._mtu(subnet, interface)} bytes of {interface.name}'s "
                    f"MTU, but they need {LEAST_MTU[subnet.version]}",
                    where=where,
                    hint=f"raise the MTU of {interface.name}, or Backend.MTU",
                )

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The tunnel of each family, with the first address of the node's subnet."""
        return tuple(obj for family in _families(node) for obj in self._tunnel(node, *family))

    def peer(self, node: LocalNode, lease: SubnetLease) -> tuple[KernelObject, ...]:
        """A direct route, or neighbour, FDB entry and route, per family."""
        if type_problem(self.type, lease) is not None:
            return ()
        objects: list[KernelObject] = []
        for path in paths(node, lease):
            try:
                objects.extend(self._peer_objects(path))
            except UnusableFamily:  # reported by `problem`
                continue
        return tuple(objects)

    def problem(self, node: LocalNode, lease: SubnetLease) -> str | None:
        """Another backend, or data without a usable MAC."""
        if (other := type_problem(self.type, lease)) is not None:
            return other
        for path in paths(node, lease):
            try:
                self._peer_objects(path)
            except UnusableFamily as error:
                return str(error)
        return None

    def _peer_objects(self, path: Path) -> tuple[KernelObject, ...]:
        if self._options.direct_routing and path.on_link:
            return path.direct
        mac = self._vtep_mac(path)
        device = self._device(path.subnet)
        vtep = path.subnet.network_address
        return (
            Neighbour(device, vtep, mac),
            FdbEntry(device, mac, path.gateway),
            Route(path.subnet, device, vtep, onlink=True),
        )

    def _vtep_mac(self, path: Path) -> str:
        """The peer's MAC from its lease. Raises Unusable."""
        data = path.data if path.data is not None else {}
        mac, vni = data.get("VtepMAC"), data.get("VNI", self._options.vni)
        if not (isinstance(mac, str) and _MAC.fullmatch(mac)) or int(mac[1], 16) & 1 or mac == _NOBODY:
            raise UnusableFamily(f"no usable VtepMAC in its IPv{path.subnet.version} backend data: {mac!r}")
        if vni != self._options.vni:
            raise UnusableFamily(f"its VNI is {vni!r}, ours {self._options.vni}")
        return mac.lower()

    def _device(self, subnet: IPNetwork) -> str:
        return f"flannel{'-v6' if subnet.version == 6 else ''}.{self._options.vni}"

    def _mtu(self, subnet: IPNetwork, interface: Interface) -> int:
        """Of the tunnel device; `Backend.MTU` is a limit, for more than the interface's own MTU would be lost."""
        outer = min(self._options.mtu or interface.mtu, interface.mtu)
        return outer - OVERHEAD[subnet.version]

    def _mac(self, node: LocalNode, subnet: IPNetwork) -> str:
        """Stable over restarts, so that no peer is left with a stale one: locally administered, unicast."""
        seed = f"{node.name}/{self._options.vni}/{subnet.version}"
        first, *rest = sha256(seed.encode()).digest()[:6]
        return bytes((first & 0xFC | 0x02, *rest)).hex(":")

    def _tunnel(
        self, node: LocalNode, subnet: IPNetwork, public: IPAddress, interface: Interface
    ) -> Iterator[KernelObject]:
        device, options = self._device(subnet), self._options
        vxlan = Vxlan(
            vni=options.vni,
            local=_own_address(public, interface),
            dev=interface.name,
            port=options.port,
            learning=options.learning,
            gbp=options.gbp,
        )
        yield Link(device, vxlan, mtu=self._mtu(subnet, interface), mac=self._mac(node, subnet))
        yield Sysctl(f"net/ipv6/conf/{device}/accept_ra", "0")
        yield Address(device, ip_interface(subnet.network_address))


def _families(node: LocalNode) -> Iterator[tuple[IPNetwork, IPAddress, Interface]]:
    """Subnet, public address and interface of each family that the node has both of."""
    if node.subnet is not None and node.public_ip is not None:
        yield node.subnet, node.public_ip, node.interface
    if node.ipv6_subnet is not None and node.public_ipv6 is not None:
        yield node.ipv6_subnet, node.public_ipv6, node.interface_v6


def _own_address(public: IPAddress, interface: Interface) -> IPAddress:
    """The tunnel's source address: the public address, unless a NAT in front of the node has that one."""
    if any(public == address.ip for address in interface.addresses):
        return public
    return address_of(interface, public.version) or public
