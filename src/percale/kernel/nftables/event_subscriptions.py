"""nftables event subscriptions, paused during large commits.

While anybody on the machine is subscribed, the kernel builds a notification of 8 KB for each element of a commit and sends
none before the last is built: 800 MB for 100,000 elements, and a commit that takes several times as long. So our own sockets
leave the multicast group during a large commit; the ruleset generation, which each commit in the namespace increments, tells
whether a foreign commit was missed:

    generation ─▶ an empty batch ─▶ leave the group ─▶ commit ─▶ join ─▶ generation: ours alone, or on_lost()

Each `table_monitor.py` subscribes and each `table.py` commits, all through the one object that the agent shares.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Failure, Request, attributes
from percale.kernel.netns import NetnsExecutor

SUBSYSTEM = 10
LARGE = 16 * 1024
"""Bytes of a batch, some 400 elements: from 200 on it pays to leave and to join again, which takes 0.1 ms."""
_TABLE_GROUP = 7
_GETGEN = 16
_GENERATION = 1
_BEGIN, _END = 16, 17
_BRACKETS = struct.pack(">BBH", 0, 0, SUBSYSTEM)


class EventSubscriptions:
    """One per process and network namespace; any thread may call."""

    def __init__(self) -> None:
        self.commit_lock = threading.Lock()
        """Held during each commit of ours, so that any other generation is a foreign commit's."""
        self._sockets: dict[netlink.Socket, Callable[[], object]] = {}
        self._shared: netlink.Socket | None = None
        self._users = 0

    def open(self, netns: NetnsExecutor) -> netlink.Socket:
        """The socket that all tables commit through: each ignores its port, and so the others' changes. Raises OSError.

        Each call is followed by one of `close`.
        """
        with self.commit_lock:
            if self._shared is None:
                self._shared = netns.run(lambda: netlink.Socket(netlink.NETFILTER))
            self._users += 1
            return self._shared

    def close(self) -> None:
        """The last one closes the socket."""
        with self.commit_lock:
            self._users -= 1
            if not self._users and self._shared is not None:
                self._shared.close()
                self._shared = None

    def subscribe(self, socket: netlink.Socket, on_lost: Callable[[], object]) -> None:
        """This socket receives the notifications. Raises OSError.

        `on_lost` is called when some may have been lost, on whichever thread committed: it must only take note.
        """
        with self.commit_lock:
            socket.join(_TABLE_GROUP)
            self._sockets[socket] = on_lost

    def unsubscribe(self, socket: netlink.Socket) -> None:
        """Its `on_lost` is not called any more; waits for a commit in progress. Raises OSError."""
        with self.commit_lock:
            socket.leave(_TABLE_GROUP)
            del self._sockets[socket]

    def commit(self, socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
        """One atomic batch; its first failure. Raises OSError."""
        with self.commit_lock:
            if sum(len(request.body) for request in requests) < LARGE:
                return commit_batch(socket, requests)
            return self._commit_unsubscribed(socket, requests)

    def _commit_unsubscribed(self, socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
        before = _generation(socket)
        # A foreign commit may be counted already and not yet notified. The kernel makes one at a time: wait for its end.
        socket.send(Request(_BEGIN, 0, _BRACKETS), Request(_END, 0, _BRACKETS))
        alone = False
        try:
            try:
                for subscribed in self._sockets:
                    subscribed.leave(_TABLE_GROUP)
                failure = commit_batch(socket, requests)
            finally:
                for subscribed in self._sockets:
                    subscribed.join(_TABLE_GROUP)
            alone = _generation(socket) == before + (failure is None)
        finally:
            if not alone:
                for on_lost in self._sockets.values():
                    on_lost()
        return failure


def commit_batch(socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
    """One atomic batch that all subscribers are notified of; its first failure. Raises OSError."""
    return socket.commit(Request(_BEGIN, 0, _BRACKETS), requests, Request(_END, 0, _BRACKETS))


def _generation(socket: netlink.Socket) -> int:
    """The number of commits in the namespace so far."""
    answer = socket.ask(SUBSYSTEM << 8 | _GETGEN, bytes(4))
    assert answer is not None
    return int.from_bytes(attributes(answer.body, 4)[_GENERATION], "big")
