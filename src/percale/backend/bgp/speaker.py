"""What a node's BGP speaker is: its sessions and what it advertises, as values. Pure.

`sessions.py` makes the sessions of Calico's objects, `bird_config.py` writes it all as BIRD's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress, IPNetwork
from percale.model.bgp import BGPFilterRule
from percale.model.ip_family import Family

PORT = 179
SECOND_PORT = 1790
"""Of sessions between nodes that BGPPeers select: beside the mesh's, so that one can replace the other without a lost route."""

PeerType: TypeAlias = Literal["node-to-node mesh", "node specific", "global"]
"""In calicoctl's words."""


class Prefix(Struct, frozen=True, order=True):
    """What this node advertises of the pod network: a whole block of its own, or an address borrowed from another's."""

    network: IPNetwork
    kind: Literal["confirmed", "borrowed"] = "confirmed"


class Session(Struct, frozen=True, kw_only=True):
    """With one neighbour, of one address family."""

    name: str
    """In BIRD's configuration and answers."""
    type: PeerType
    neighbor: IPAddress
    as_number: int
    local_as: int
    node: str | None = None
    """The neighbour's; None: a router outside the cluster."""
    port: int = PORT
    """The neighbour's."""
    local_port: int = PORT
    passive: bool = False
    """The neighbour connects."""
    client_of: IPv4Address | None = None
    """The neighbour is a client of this reflector, of this cluster id."""
    password: str | None = None
    restart_time: int | None = None
    """Seconds for which the neighbour keeps our routes while we restart."""
    keepalive: int | None = None
    ttl_hops: int | None = None
    """The neighbour is at most so many hops away (RFC 5082)."""
    next_hop: Literal["auto", "self", "keep"] = "auto"
    own_as_allowed: int = 0
    any_source: bool = False
    bfd: bool = False
    imports: tuple[BGPFilterRule, ...] = ()
    exports: tuple[BGPFilterRule, ...] = ()

    @property
    def family(self) -> Family:
        return Family(self.neighbor.version)


class Speaker(Struct, frozen=True, kw_only=True):
    """All of a node's configuration."""

    router_id: IPv4Address
    addresses: Mapping[Family, IPAddress]
    """Its own, by which it peers."""
    on_link: Mapping[IPNetwork, str]
    """Networks in which next hops are, each with its device."""
    networks: tuple[IPNetwork, ...]
    """The pod networks: what nodes may tell each other."""
    prefixes: tuple[Prefix, ...] = ()
    services: tuple[IPNetwork, ...] = ()
    """Addresses and blocks of Services that this node advertises."""
    service_blocks: tuple[IPNetwork, ...] = ()
    """Those of the cluster: reflected, and never routes of this kernel."""
    reflector: bool = False
    sessions: tuple[Session, ...] = ()
    table: int = 179
    """The kernel's routing table for what is learned."""
