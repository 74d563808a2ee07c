"""The vxlan backend, flannel's default: one device per family, and three entries per peer.

    10.244.2.7 ─ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 ─ neighbour 10.244.2.0 is VtepMAC ─ FDB: VtepMAC is at PublicIP

With DirectRouting a peer that needs no gateway gets a plain route instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from ipaddress import ip_interface
from typing import Any

from percale.backend.interface_selection import tunnel_source
from percale.backend.node_checks import require_mtu_of_families
from percale.backend.peer_path import Path, UnusableFamily, paths, type_problem
from percale.backend.protocol import ExclusiveId, KernelBackend, LocalFamily, LocalNode, PeerObjects
from percale.model.addresses import IPAddress
from percale.model.backend_options import VxlanOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.render.link_kinds import Vxlan
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import Address, FdbEntry, KernelObject, Link, Neighbour, Route, Sysctl

OVERHEAD = {Family.IPV4: 50, Family.IPV6: 70}
"""Bytes of the outer Ethernet, IP, UDP and VXLAN headers, by the underlay's IP version."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_NOBODY = "00:00:00:00:00:00"
"""In a vxlan device's FDB this is the default entry, for all unknown addresses."""


class VxlanBackend(KernelBackend):
    """See `Backend`."""

    type = "vxlan"

    def __init__(self, options: VxlanOptions) -> None:
        self._options = options

    def pod_mtu(self, node: LocalNode) -> int:
        """The smaller one of both families' tunnels, also while a family has no underlay yet."""
        return min(self._mtu(each) for each in node.families.values())

    def lease_data(self, node: LocalNode) -> Mapping[Family, dict[str, Any]]:
        """`{"VNI":1,"VtepMAC":"…"}`; VtepMAC last, for flannel splits the text there."""
        return {
            family: {"VNI": self._options.vni, "VtepMAC": self._mac(node, family)} for family, _, _ in _families(node)
        }

    def check(self, node: LocalNode) -> None:
        """The MTU must leave room for the smallest packet."""
        require_mtu_of_families(self.type, node, {family: self._mtu(local) for family, local, _ in _families(node)})

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The tunnel of each family, with the first address of the node's subnet."""
        return tuple(obj for each in _families(node) for obj in self._tunnel(node, *each))

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """The local address of each family's tunnel."""
        return tuple(TunnelEnd(source, self._options.port) for _, _, source in _families(node))

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterator[ExclusiveId]:
        """The VtepMAC of each family."""
        for each in spec.families:
            if isinstance(mac := each.fields.get("VtepMAC"), str):
                yield ExclusiveId("VtepMAC", mac.lower(), each.family)

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """A direct route, or neighbour, FDB entry and route, per family. Its problem: another backend, or no usable MAC."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        objects: list[KernelObject] = []
        addresses: list[IPAddress] = []
        problem = None
        for path in paths(node, lease):
            try:
                objects += self._peer_objects(path)
            except UnusableFamily as error:
                problem = problem or str(error)
            else:
                addresses.append(path.gateway)
        return PeerObjects(tuple(objects), tuple(addresses), problem)

    def _peer_objects(self, path: Path) -> tuple[KernelObject, ...]:
        if self._options.direct_routing and path.on_link:
            return (path.direct,)
        mac = self._vtep_mac(path)
        device = self._device(path.subnet.version)
        vtep = path.subnet.network_address
        return (
            Neighbour(device, vtep, mac),
            FdbEntry(device, mac, path.gateway),
            Route(path.subnet, device, vtep, onlink=True),
        )

    def _vtep_mac(self, path: Path) -> str:
        """The peer's MAC from its lease. Raises UnusableFamily."""
        mac, vni = path.fields.get("VtepMAC"), path.fields.get("VNI", self._options.vni)
        if not (isinstance(mac, str) and _MAC.fullmatch(mac)) or int(mac[1], 16) & 1 or mac == _NOBODY:
            raise UnusableFamily(f"no usable VtepMAC in its IPv{path.subnet.version} backend data: {mac!r}")
        if vni != self._options.vni:
            raise UnusableFamily(f"its VNI is {vni!r}, ours {self._options.vni}")
        return mac.lower()

    def _device(self, version: int) -> str:
        return f"flannel{'-v6' if version == Family.IPV6 else ''}.{self._options.vni}"

    def _mtu(self, local: LocalFamily) -> int:
        """Of the tunnel device; `Backend.MTU` is a limit, for more than the interface's own MTU would be lost."""
        outer = min(self._options.mtu or local.interface.mtu, local.interface.mtu)
        return outer - OVERHEAD[Family(local.subnet.version)]

    def _mac(self, node: LocalNode, family: Family) -> str:
        """Stable over restarts, so that no peer is left with a stale one: taken over, or locally administered, unicast."""
        if (known := node.macs.get(self._device(family))) is not None:
            return known
        seed = f"{node.name}/{self._options.vni}/{family:d}"
        first, *rest = sha256(seed.encode()).digest()[:6]
        return bytes((first & 0xFC | 0x02, *rest)).hex(":")

    def _tunnel(self, node: LocalNode, family: Family, local: LocalFamily, source: IPAddress) -> Iterator[KernelObject]:
        device, options = self._device(family), self._options
        vxlan = Vxlan(
            vni=options.vni,
            local=source,
            dev=local.interface.name,
            port=options.port,
            learning=options.learning,
            gbp=options.gbp,
        )
        yield Link(device, vxlan, mtu=self._mtu(local), mac=self._mac(node, family))
        yield Sysctl(f"net/ipv6/conf/{device}/accept_ra", "0")
        yield Address(device, ip_interface(local.subnet.network_address))


def _families(node: LocalNode) -> Iterator[tuple[Family, LocalFamily, IPAddress]]:
    """Each family that has an underlay, with its tunnel's source."""
    for family, local in node.families.items():
        if (source := tunnel_source(local)) is not None:
            yield family, local, source
