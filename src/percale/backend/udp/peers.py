"""The peers of a tunnel: by the address that a packet is for, and whether it may come from there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from percale.backend.udp.packets import Buffer


class TunnelPeers:
    """Subnets of any lengths, the longest first."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        self._by_length: dict[int, dict[int, str]] = {}
        by_subnet = {IPv4Network(subnet): public_ip for subnet, public_ip in peers.items()}
        for subnet in sorted(by_subnet, key=lambda each: -each.prefixlen):
            shift = 32 - subnet.prefixlen
            self._by_length.setdefault(shift, {})[int(subnet.network_address) >> shift] = by_subnet[subnet]

    def of(self, address: Buffer) -> str | None:
        """The public address of the peer whose subnet has these four bytes; None: nobody's has."""
        number = int.from_bytes(address, "big")
        for shift, subnets in self._by_length.items():
            if (found := subnets.get(number >> shift)) is not None:
                return found
        return None
