"""Where processes of one network namespace listen, by sock_diag. Called by `agent/service/host_ports.py`, on its own thread.

The kernel walks its listening sockets alone, however many connections there are.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.kernel.netlink import socket as netlink

Protocol: TypeAlias = Literal["TCP", "UDP"]

_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI48x")
_ANSWER = struct.Struct("=BBBB2s2s16s16s12x20x")
"""Family, state, timer, retransmissions; ports, addresses; interface and cookie, counters."""
_V6_ONLY = 11
_STATES: dict[Protocol, tuple[int, int]] = {"TCP": (socket.IPPROTO_TCP, 1 << 10), "UDP": (socket.IPPROTO_UDP, 1 << 7)}
"""LISTEN; for UDP: bound and not connected."""
_WIDTHS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}


class Listener(Struct, frozen=True):
    """`address` is packed, all zeros for all of them; `both`: an IPv6 socket that takes IPv4 as well."""

    protocol: Protocol
    port: int
    address: bytes
    both: bool = False

    @property
    def is_everywhere(self) -> bool:
        """Bound to all addresses."""
        return not any(self.address)

    @property
    def is_at_loopback(self) -> bool:
        """There alone."""
        return ip_address(self.address).is_loopback


def listeners() -> list[Listener]:
    """In the caller's namespace; none where the kernel does not support it. Raises OSError."""
    with suppress(FileNotFoundError):  # a kernel without inet_diag
        asking = netlink.Socket(_SOCK_DIAG)
        try:
            return [each for protocol in _STATES for family in _WIDTHS for each in _of(asking, protocol, family)]
        finally:
            asking.close()
    return []


def _of(asking: netlink.Socket, protocol: Protocol, family: int) -> Iterator[Listener]:
    number, states = _STATES[protocol]
    for message in asking.dump(_BY_FAMILY, _REQUEST.pack(family, number, 0, 0, states)):
        found, _, _, _, port, _, address, _ = _ANSWER.unpack_from(message.body)
        answer = dict(netlink.attributes(message.body[_ANSWER.size :]))
        only = answer.get(_V6_ONLY, b"\0")[0]
        yield Listener(protocol, int.from_bytes(port), address[: _WIDTHS[found]], found == socket.AF_INET6 and not only)
