"""Which UDP ports are tunnels between nodes, and where they end, as set elements: what the guards of `base_chains.py` go by.

The agent wishes this node's beside its tables, and backends wish a peer's beside its route.
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.render.objects import Element, Family, IPAddress, KernelObject, Link, Vxlan

USUAL_PORT = 8472
"""Where other nodes may have a tunnel, when this one has none: flannel's."""
_FAMILIES: tuple[Family, ...] = ("ip", "ip6")


def tunnels_of(device: Iterable[KernelObject]) -> list[Vxlan]:
    """Those among the objects of a backend."""
    return [each.vxlan for each in device if isinstance(each, Link) and each.vxlan is not None]


def tunnel_elements(device: Iterable[KernelObject]) -> tuple[Element, ...]:
    """This node's: no pod gets to the ports of its tunnels at any node, and here only peers do."""
    tunnels = tunnels_of(device)
    ports = sorted({tunnel.port for tunnel in tunnels} or {USUAL_PORT})
    closed = [Element(family, "tunnels", (port,)) for family in _FAMILIES for port in ports]
    own = [
        element
        for tunnel in tunnels
        for family in (_family(tunnel.local),)
        for element in (Element(family, "ours", (tunnel.port,)), Element(family, "here", (tunnel.local,)))
    ]
    return (*closed, *own)


def peer_element(address: IPAddress) -> Element:
    """Another node's public address."""
    return Element(_family(address), "peers", (address,))


def _family(address: IPAddress) -> Family:
    return "ip" if address.version == 4 else "ip6"
