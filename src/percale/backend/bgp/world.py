"""What the agent knows of the cluster, for the speaker of one node. `agent/network/bgp.py` tells it to `bird_process.py`."""

from __future__ import annotations

from msgspec import Struct

from percale.backend.bgp.sessions import BgpObjects
from percale.backend.bgp.speaker import Prefix
from percale.model.addresses import IPNetwork


class BgpWorld(Struct, frozen=True):
    """Its objects for BGP, and what else a node advertises."""

    objects: BgpObjects
    networks: tuple[IPNetwork, ...]
    """The pod networks."""
    prefixes: tuple[Prefix, ...]
    """What this node advertises of them: its subnets and blocks."""
    services: tuple[IPNetwork, ...] = ()
    """Addresses of Services that it advertises by themselves."""
