"""The ports, IP protocols and endpoints of tunnels and routing daemons, as set elements for the guards of `base_chains.py`.

The agent declares this node's, and a peer's as the backend says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress
from percale.model.backend_options import guarded_ports
from percale.model.ip_family import Family
from percale.render.network.elements import Element

IP_IN_IP = 4
"""The IP protocol of ipip, which `base_chains.py` guards."""


class TunnelEnd(Struct, frozen=True):
    """Where a tunnel of this node's ends: what is in a packet to it is taken for a peer's."""

    address: IPAddress
    port: int | None
    """Of UDP; None: IP in IP."""


SessionPort: TypeAlias = tuple[Literal["TCP", "UDP"], int]
"""Where a node's routing daemon takes messages of its neighbours."""
_PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17}


def session_elements(ports: Iterable[SessionPort]) -> Iterator[Element]:
    """No pod may send to these ports of a node or of a router."""
    for protocol, port in ports:
        for family in Family:
            yield Element(family.nft, "sessions", (_PROTOCOL_NUMBERS[protocol], port))


def speaker_elements(neighbors: Iterable[IPAddress]) -> Iterator[Element]:
    """Neighbours of the routing daemon: a pod's packets to them would have the node's address."""
    for address in neighbors:
        yield Element(Family(address.version).nft, "speakers", (address,))


def tunnel_elements(ends: Iterable[TunnelEnd]) -> tuple[Element, ...]:
    """This node's tunnels: no pod may send to their ports at any node, and to this node only peers may."""
    own = tuple(ends)
    ports = guarded_ports(end.port for end in own if end.port is not None)
    closed = [Element(family.nft, "tunnels", (port,)) for family in Family for port in ports]
    ours = [
        element
        for end in own
        for family in (Family(end.address.version).nft,)
        for element in (
            Element(family, "localtunnels", (end.port,))
            if end.port is not None
            else Element(family, "localprotocols", (IP_IN_IP,)),
            Element(family, "tunnelendpoints", (end.address,)),
        )
    ]
    return (*closed, *ours)


def peer_element(address: IPAddress) -> Element:
    """A peer's public address."""
    return Element(Family(address.version).nft, "peers", (address,))
