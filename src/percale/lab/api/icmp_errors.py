"""The error that ended a connection attempt, and which machine sent it. Called by `probe`.

From the queue of errors that the kernel keeps for a socket (ip(7), `IP_RECVERR`).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from msgspec import Struct

from percale.model.addresses import IPAddress

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err (linux/errqueue.h): errno, origin, type, code, pad, info, data; the sender's sockaddr follows."""
_ADDRESSES = {2: slice(4, 8), 3: slice(8, 24)}
"""By SO_EE_ORIGIN_ICMP and _ICMP6: where the sender's sockaddr has its address."""
_LONGEST = 512


class KeptError(Struct, frozen=True):
    number: int
    """errno"""
    sender: IPAddress | None
    """None: it was this machine's own kernel."""


def keep_icmp_errors(endpoint: socket.socket) -> None:
    """Let the kernel keep this socket's errors for `kept_error`."""
    if endpoint.family == socket.AF_INET6:
        endpoint.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        endpoint.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def kept_error(endpoint: socket.socket) -> KeptError | None:
    """The oldest one."""
    try:
        _, controls, _, _ = endpoint.recvmsg(0, _LONGEST, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    for _, _, text in controls:
        number, origin, *_ = _EXTENDED_ERROR.unpack_from(text)
        place = _ADDRESSES.get(origin)
        return KeptError(number, ip_address(text[_EXTENDED_ERROR.size :][place]) if place is not None else None)
    return None
