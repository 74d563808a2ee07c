"""Whom a pod sees when a node has put an address of its own in the place of the client's. Used by `behind`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple


class Face(NamedTuple):
    """An address that a node masquerades as."""

    address: bytes
    node: str
    is_tunnel: bool = False
    """Of its tunnel device: the same node for policies, but no block with its other address means it."""

    def __str__(self) -> str:
        text = str(ip_address(self.address))
        return f"{text}, the tunnel's end on {self.node}" if self.is_tunnel else f"node/{self.node} ({text})"
