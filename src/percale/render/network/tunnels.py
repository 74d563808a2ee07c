"""The UDP ports and endpoints of tunnels between nodes, as set elements for the guard chains of `base_chains.py`.

The agent declares this node's and its peers'.
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.render.link_kinds import Vxlan
from percale.render.network.elements import Element
from percale.render.nft.objects import TableFamily
from percale.render.objects import IPAddress, KernelObject, Link

DEFAULT_PORT = 8472
"""Other nodes' tunnel port when this node has none: flannel's."""
_FAMILIES: tuple[TableFamily, ...] = ("ip", "ip6")


def tunnels_of(device: Iterable[KernelObject]) -> list[Vxlan]:
    """The tunnels among a backend's objects."""
    return [each.kind for each in device if isinstance(each, Link) and isinstance(each.kind, Vxlan)]


def tunnel_elements(device: Iterable[KernelObject]) -> tuple[Element, ...]:
    """This node's tunnels: no pod may send to their ports at any node, and to this node only peers may."""
    tunnels = tunnels_of(device)
    ports = sorted({tunnel.port for tunnel in tunnels} or {DEFAULT_PORT})
    closed = [Element(family, "tunnels", (port,)) for family in _FAMILIES for port in ports]
    own = [
        element
        for tunnel in tunnels
        for family in (_family(tunnel.local),)
        for element in (Element(family, "ours", (tunnel.port,)), Element(family, "here", (tunnel.local,)))
    ]
    return (*closed, *own)


def peer_element(address: IPAddress) -> Element:
    """A peer's public address."""
    return Element(_family(address), "peers", (address,))


def _family(address: IPAddress) -> TableFamily:
    return "ip" if address.version == 4 else "ip6"
