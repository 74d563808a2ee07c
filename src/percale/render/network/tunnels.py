"""The UDP ports and endpoints of tunnels between nodes, as set elements for the guard chains of `base_chains.py`.

The agent declares this node's, and a peer's as the backend says.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from percale.model.addresses import IPAddress
from percale.model.backend_options import guarded_ports
from percale.model.ip_family import Family
from percale.render.network.elements import Element


class TunnelEnd(Struct, frozen=True):
    """Where a tunnel of this node's ends: what is in a UDP packet to it is taken for a peer's."""

    address: IPAddress
    port: int


def tunnel_elements(ends: Iterable[TunnelEnd]) -> tuple[Element, ...]:
    """This node's tunnels: no pod may send to their ports at any node, and to this node only peers may."""
    own = tuple(ends)
    ports = guarded_ports(end.port for end in own)
    closed = [Element(family.nft, "tunnels", (port,)) for family in Family for port in ports]
    ours = [
        element
        for end in own
        for family in (Family(end.address.version).nft,)
        for element in (
            Element(family, "localtunnels", (end.port,)),
            Element(family, "tunnelendpoints", (end.address,)),
        )
    ]
    return (*closed, *ours)


def peer_element(address: IPAddress) -> Element:
    """A peer's public address."""
    return Element(Family(address.version).nft, "peers", (address,))
