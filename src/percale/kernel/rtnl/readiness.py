"""Waiting for what the kernel has accepted and finishes later, in work queues of its own; packets are lost until then.

Both waits are for the caller's namespace and block: `cni/pod_netns.py` calls them in its thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing

from percale.kernel.netlink import route
from percale.kernel.netlink import socket as netlink
from percale.kernel.rtnl.link_cache import LinkCache
from percale.model.addresses import IPAddress

_POLL, _TIMEOUT = 0.001, 1.0
"""Seconds between two looks, and until the wait ends."""


def wait_operational(device: str) -> bool:
    """Wait until the device carries packets; False on timeout.

    The end of a veth pair that was up first has to wait for the kernel's link watch. From Linux 6.8 on the query itself
    triggers the link watch. Raises OSError.
    """

    def operational(socket: netlink.Socket) -> bool:
        found = LinkCache(socket).find(device)
        return found is not None and found.operational

    return _wait(operational)


def wait_local(addresses: Iterable[IPAddress]) -> bool:
    """Wait until packets to these addresses of ours are delivered; False on timeout.

    An IPv6 address gets its local route, and joins the group in which neighbours ask for it, in the work of duplicate
    address detection, even if there is nothing to detect (`nodad`). Raises OSError.
    """
    left = set(addresses)

    def local(socket: netlink.Socket) -> bool:
        left.difference_update([address for address in left if _is_local(socket, address)])
        return not left

    return _wait(local)


def _is_local(socket: netlink.Socket, address: IPAddress) -> bool:
    try:
        answer = socket.ask(route.RTM_GETROUTE, route.query_route(address))
    except OSError:  # no route at all
        return False
    return answer is not None and route.leads_here(answer.body)


def _wait(condition: Callable[[netlink.Socket], bool]) -> bool:
    with closing(netlink.Socket(netlink.ROUTE)) as socket:
        deadline = time.monotonic() + _TIMEOUT
        while not condition(socket):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
    return True
