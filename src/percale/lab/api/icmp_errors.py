"""Which machine sent the ICMP error that ended a connection attempt. Called by `probe`.

From the queue of errors that the kernel keeps for a socket (ip(7), `IP_RECVERR`).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from percale.model.addresses import IPAddress

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err (linux/errqueue.h): errno, origin, type, code, pad, info, data; the sender's sockaddr follows."""
_ADDRESSES = {2: slice(4, 8), 3: slice(8, 24)}
"""By SO_EE_ORIGIN_ICMP and _ICMP6: where the sender's sockaddr has its address."""
_LONGEST = 512


def keep_icmp_errors(endpoint: socket.socket) -> None:
    """Let the kernel keep this socket's errors for `icmp_sender`."""
    if endpoint.family == socket.AF_INET6:
        endpoint.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        endpoint.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def icmp_sender(endpoint: socket.socket) -> IPAddress | None:
    """The sender of the oldest error that is kept; None: it was this machine's own kernel."""
    try:
        _, controls, _, _ = endpoint.recvmsg(0, _LONGEST, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    for _, _, text in controls:
        _, origin, *_ = _EXTENDED_ERROR.unpack_from(text)
        if origin in _ADDRESSES:
            return ip_address(text[_EXTENDED_ERROR.size :][_ADDRESSES[origin]])
    return None
