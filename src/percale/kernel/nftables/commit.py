"""Who of this process hears what others do to nft tables in one namespace, and commits that make none of them hear a swarm.

While anybody on the machine listens, the kernel makes a notification of 8 KB for each element of a commit, and sends none before
the last is made: 800 MB for 100,000, and a commit that takes several times as long. So while a large one is made none of
ours listens, and the generation, which each commit in the namespace raises by one, tells whether something was missed:

    generation ─▶ an empty batch ─▶ leave the group ─▶ commit ─▶ join ─▶ generation: ours alone, or missed()

`table.py` and `monitor.py` listen, and they and `static_tables.py` commit, through the one object that the agent gives to both.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Failure, Request, attributes

SUBSYSTEM = 10
LARGE = 16 * 1024
"""Bytes of a batch, some 400 elements: from 200 on it pays to leave and to join again, which takes 0.1 ms."""
_TABLE_GROUP = 7
_GETGEN = 16
_GENERATION = 1
_BEGIN, _END = 16, 17
_BRACKETS = struct.pack(">BBH", 0, 0, SUBSYSTEM)


class Hearing:
    """One per process and namespace; any thread may call."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        """Held during each change of ours, so that a generation that is not ours is somebody else's."""
        self._ears: dict[netlink.Socket, Callable[[], object]] = {}

    def begin(self, ear: netlink.Socket, missed: Callable[[], object]) -> None:
        """This socket gets the notifications. Raises OSError.

        `missed` is called when some may have been lost, on whichever thread made a change: it takes note and changes nothing.
        """
        with self.changing:
            ear.join(_TABLE_GROUP)
            self._ears[ear] = missed

    def end(self, ear: netlink.Socket) -> None:
        """Its `missed` is not called any more; waits for a change that is being made. Raises OSError."""
        with self.changing:
            ear.leave(_TABLE_GROUP)
            del self._ears[ear]

    def commit(self, socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
        """One atomic batch; its first failure. Raises OSError."""
        with self.changing:
            if sum(len(request.body) for request in requests) < LARGE:
                return commit(socket, requests)
            return self._commit_unheard(socket, requests)

    def _commit_unheard(self, socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
        before = _generation(socket)
        # Somebody's commit may count already and have told nobody yet. The kernel makes one at a time: this waits for its end.
        socket.send(Request(_BEGIN, 0, _BRACKETS), Request(_END, 0, _BRACKETS))
        alone = False
        try:
            try:
                for ear in self._ears:
                    ear.leave(_TABLE_GROUP)
                failure = commit(socket, requests)
            finally:
                for ear in self._ears:
                    ear.join(_TABLE_GROUP)
            alone = _generation(socket) == before + (failure is None)
        finally:
            if not alone:
                for missed in self._ears.values():
                    missed()
        return failure


def commit(socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
    """One atomic batch of which whoever listens hears; its first failure. Raises OSError."""
    return socket.commit(Request(_BEGIN, 0, _BRACKETS), requests, Request(_END, 0, _BRACKETS))


def _generation(socket: netlink.Socket) -> int:
    """How many commits there have been in the namespace."""
    answer = socket.ask(SUBSYSTEM << 8 | _GETGEN, bytes(4))
    assert answer is not None
    return int.from_bytes(attributes(answer.body, 4)[_GENERATION], "big")
