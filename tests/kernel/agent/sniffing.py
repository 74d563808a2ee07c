"""What comes into a namespace, whoever sent it. Used by the tests of policies and tunnels."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from tests.kernel.agent.cluster import NETNS
from tests.kernel.inside import inside
from tests.kernel.streams import MAGIC

_EVERYTHING = 0x0003


class Sniffer:
    """Whatever comes into a namespace, by any device that it has or will have."""

    def __init__(self, name: str) -> None:
        kind = socket.htons(_EVERYTHING)
        self._socket = inside(NETNS / name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
        self.sources: set[str] = set()

    def close(self) -> None:
        self._socket.close()

    def look(self) -> set[str]:
        """The source addresses of all that came with our mark in it."""
        while True:
            try:
                packet, place = self._socket.recvfrom(2048)
            except BlockingIOError:
                return self.sources
            if place[2] != socket.PACKET_OUTGOING and MAGIC in packet:
                start, width = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
                self.sources.add(str(ip_address(packet[start : start + width])))
