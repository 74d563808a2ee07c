"""Echo requests (ping) from this network namespace. Called by `agent/network/peer_probes.py`, on its event loop, and by
`checks/echo.py`.

A raw socket gets the replies that anybody sends to this node, and any pod may send as many as it likes: the kernel drops those
that have not this socket's identifier.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from percale.kernel.probe_packet import checksum
from percale.kernel.socket_filter import attach_filter
from percale.model.addresses import IPAddress

_HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_ICMP_FILTER = 1
"""Socket option of both families, at different levels."""
_SOL_RAW = 255
_LONGEST = 2048
_MOST = 100
"""Replies that are read at a time."""
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0
"""Requests are fragmented where they must be, as a tunnel's packets are."""
_IP_LENGTH = {4: 20, 6: 40}
_IP_HEADER_LENGTH, _LOAD_BYTE, _LOAD_HALF, _EQUAL, _RETURN = 0xB1, 0x50, 0x48, 0x15, 0x06
"""Instructions of classic BPF; X is the length of the IP header, which comes before ICMP's with IPv4 only, and else 0."""


class EchoSocket:
    """Of one IP version. Replies to other processes' requests are ignored."""

    def __init__(self, version: int) -> None:
        """Raises OSError: without CAP_NET_RAW, or where the kernel lacks the family."""
        self._version = version
        self._identifier = int.from_bytes(os.urandom(2), "big")
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(family, kind, protocol)
        if version == 4:
            self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY[4]) & 0xFFFFFFFF))
        else:
            passed = [0xFFFFFFFF] * 8
            passed[_REPLY[6] >> 5] &= ~(1 << (_REPLY[6] & 31))
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP_FILTER, struct.pack("=8I", *passed))
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        )
        self._socket.setsockopt(level, option, _PMTUDISC_DONT)
        _attach_filter(self._socket, version, self._identifier)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, address: IPAddress, sequence: int, size: int = 0) -> None:
        """One request; that it cannot be sent is as if nobody had answered. `size`: bytes of the IP packet, at least."""
        packet = _HEADER.pack(_REQUEST[self._version], 0, 0, self._identifier, sequence)
        if self._version == 4:  # the kernel computes ICMPv6's
            packet = packet[:2] + checksum(packet) + packet[4:]
        packet = packet.ljust(size - _IP_LENGTH[self._version], b"\0")  # zeros change no checksum
        with suppress(OSError):
            self._socket.sendto(packet, (str(address), 0))

    def replies(self) -> Iterator[int]:
        """Sequence numbers of the replies that have arrived."""
        with suppress(OSError):
            for _ in range(_MOST):
                packet = self._socket.recv(_LONGEST)
                if self._version == 4:
                    packet = packet[(packet[0] & 0xF) * 4 :]
                if len(packet) < _HEADER.size:
                    continue
                kind, _, _, identifier, sequence = _HEADER.unpack_from(packet)
                if (kind, identifier) == (_REPLY[self._version], self._identifier):
                    yield sequence


def _attach_filter(endpoint: socket.socket, version: int, identifier: int) -> None:
    """Echo replies with this identifier pass."""
    instructions = [
        *([(_IP_HEADER_LENGTH, 0, 0, 0)] if version == 4 else []),
        (_LOAD_BYTE, 0, 0, 0),
        (_EQUAL, 0, 3, _REPLY[version]),
        (_LOAD_HALF, 0, 0, 4),
        (_EQUAL, 0, 1, identifier),
        (_RETURN, 0, 0, _LONGEST),
        (_RETURN, 0, 0, 0),
    ]
    attach_filter(endpoint, instructions)
