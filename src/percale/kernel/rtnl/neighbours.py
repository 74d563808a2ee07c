"""What the kernel has learned of neighbours, beside those that are declared. Called by `cni/pod_netns.py` in its thread."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing

from percale.kernel.netlink import route
from percale.kernel.netlink import socket as netlink
from percale.model.addresses import IPAddress


def forget_neighbours(device: str, addresses: Iterable[IPAddress]) -> None:
    """Drop what is known of them on a device of this namespace, and the packets that wait for their answer. Raises OSError."""
    index = socket.if_nametoindex(device)
    with closing(netlink.Socket(netlink.ROUTE)) as requests:
        for error in requests.request([route.forget_neighbour(address, index) for address in addresses]):
            if error is not None:
                raise error
