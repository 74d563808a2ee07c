"""Where processes listen, as the kernel says."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from percale.kernel.listeners import Listener, listeners


def test_who_listens() -> None:
    with ExitStack() as open_now:

        def bound(family: int, kind: int, address: str, port: int, *, only: int = 0) -> socket.socket:
            each = open_now.enter_context(socket.socket(family, kind))
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            each.bind((address, port))
            return each

        bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 1001).listen()
        bound(socket.AF_INET6, socket.SOCK_STREAM, "::", 1002).listen()
        bound(socket.AF_INET6, socket.SOCK_STREAM, "::", 1003, only=1).listen()
        bound(socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 1004)
        bound(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 1005)
        found = {each for each in listeners() if 1001 <= each.port <= 1005}
    assert found == {
        Listener("TCP", 1001, bytes((127, 0, 0, 1))),
        Listener("TCP", 1002, bytes(16), both=True),
        Listener("TCP", 1003, bytes(16)),
        Listener("UDP", 1004, bytes(4)),
    }, "bound alone is no listener"
    assert {each.is_everywhere for each in found if each.port != 1001} == {True}
