"""The addresses of one network namespace, whoever put them there. `agent/service/conntrack_cleanup.py` asks, on its thread."""

from __future__ import annotations

from percale.kernel.netlink import route
from percale.kernel.netlink import socket as netlink


def own_addresses() -> set[bytes]:
    """Packed, of all devices of the caller's namespace. Raises OSError."""
    socket = netlink.Socket(netlink.ROUTE)
    try:
        answers = socket.dump(route.RTM_GETADDR, route.query_addresses())
        return {route.decode_address(message.body).address.packed for message in answers}
    finally:
        socket.close()
