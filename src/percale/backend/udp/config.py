"""What the tunnel's program is told, and what it answers. Shared by `tunnel_process.py`, in the agent, and `tunnel.py`."""

from __future__ import annotations

from msgspec import Struct

CONFIG, SOCKET, LOG = "config.json", "control", "log"
"""In the backend's directory."""
OVERHEAD = 28
"""Bytes of the outer IPv4 and UDP headers."""


class TunnelConfig(Struct, frozen=True):
    """Packets of `device` for a peer's subnet go to its public address, and no others are taken from there."""

    device: str
    source: str
    """Of this node in the pod network: ICMP errors come from it."""
    address: str
    """Where peers' packets arrive."""
    port: int
    """In UDP, at all nodes."""
    peers: dict[str, str]
    """Public addresses by subnet."""


class TunnelStatus(Struct, frozen=True):
    """`problem` is why no packets are carried now; `dropped` counts packets by the reason."""

    pid: int
    dropped: dict[str, int]
    problem: str | None = None
