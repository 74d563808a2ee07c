"""Reports foreign changes of one table, on the event loop, collected. `table.py` and `text_table.py` have one each."""

from __future__ import annotations

import asyncio
import errno

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import attributes, string
from percale.kernel.netns import NetnsExecutor
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM, EventSubscriptions
from percale.kernel.nftables.foreign_changes import ForeignChanges
from percale.kernel.nftables.messages import FAMILIES, NEWGENERATION, TABLE_OF_ANYTHING
from percale.render.nft.objects import TableName


class TableMonitor:
    """All methods but `open` and `close` are called on the event loop."""

    def __init__(self, table: TableName, subscriptions: EventSubscriptions) -> None:
        self.touched = False
        """A foreign change has happened since the start."""
        self.changes = ForeignChanges()
        self._table = table
        self._subscriptions = subscriptions
        self._socket: netlink.Socket | None = None

    def open(self, netns: NetnsExecutor, loop: asyncio.AbstractEventLoop) -> netlink.Socket:
        """Subscribe; returns the socket to commit through, whose changes are not reported. Blocks; raises OSError."""
        commits = self._subscriptions.open(netns)
        try:
            news = netns.run(lambda: netlink.Socket(netlink.NETFILTER))
            news.ignore(commits.port)
            self._subscriptions.subscribe(news, lambda: loop.call_soon_threadsafe(self._notify))
        except OSError:
            self._subscriptions.close()
            raise
        self._socket = news
        return commits

    def listen(self) -> None:
        """After `open`."""
        assert self._socket is not None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def silence(self) -> None:
        """Before `close`."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self.changes.cancel()

    def close(self) -> None:
        """Waits for a commit in progress. Blocks."""
        if self._socket is not None:
            self._subscriptions.unsubscribe(self._socket)
            self._subscriptions.close()
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        """One datagram at a time, so that a burst does not block the loop."""
        assert self._socket is not None
        touched = True
        try:
            messages = self._socket.receive(wait=False)
            touched = not self.changes.pending and any(map(self._concerns, messages))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: they may have been about our table
                raise
        if touched:
            self._notify()

    def _concerns(self, message: netlink.Message) -> bool:
        subsystem, kind = divmod(message.type, 1 << 8)
        if subsystem != SUBSYSTEM or kind == NEWGENERATION or message.body[0] != FAMILIES[self._table.family]:
            return False
        return string(attributes(message.body, 4).get(TABLE_OF_ANYTHING, b"")) == self._table.name

    def _notify(self) -> None:
        self.touched = True
        self.changes.notify()
