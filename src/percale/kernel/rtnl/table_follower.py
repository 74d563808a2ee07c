"""The routes of a table that another program keeps, as they change: a routing daemon's, which the agent mirrors into main.

    kernel table N ─▶ notifications ─▶ TableFollower ─▶ changes by destination: the route, or None when it is gone

One thread. A device that goes down takes IPv4 routes along without a notification: the table is read again then.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TypeAlias

from percale.kernel.netlink import link, route
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message, Request
from percale.kernel.rtnl.link_cache import LinkCache
from percale.model.addresses import IPNetwork
from percale.render.objects import Route

_LINK, _IPV4_ROUTE, _IPV6_ROUTE = 1, 7, 11
_GATHERING = 0.005
"""Seconds from the first notification to their processing: a route that is replaced goes and comes."""

TableChanges: TypeAlias = Mapping[IPNetwork, Route | None]


class TableFollower:
    """Created in the namespace; `initial` is what the table has then."""

    def __init__(self, table: int, protocol: int) -> None:
        """Raises OSError."""
        self._table, self._protocol = table, protocol
        self._queries = netlink.Socket(netlink.ROUTE)
        self._events = netlink.Socket(netlink.ROUTE, (_LINK, _IPV4_ROUTE, _IPV6_ROUTE))
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._routes = self._read()
        self.initial: TableChanges = dict(self._routes)
        self._on_changes: Callable[[TableChanges], None] = lambda _changes: None
        self._thread = threading.Thread(target=self._run, name="table-follower", daemon=True)

    def start(self, on_changes: Callable[[TableChanges], None]) -> None:
        """Call back for each change, in the follower's thread."""
        self._on_changes = on_changes
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._queries.close()
        self._events.close()
        os.close(self._stop)

    def _read(self) -> dict[IPNetwork, Route]:
        devices = LinkCache(self._queries)
        devices.load()
        answers = self._queries.dump(route.RTM_GETROUTE, route.query_routes(self._table))
        return {found.dst: found for each in answers if (found := self._route(each, devices)) is not None}

    def _route(self, message: Message, devices: LinkCache) -> Route | None:
        seen = route.decode_route(message.body, self._table)
        if seen is None or seen.protocol != self._protocol:
            return None
        name = devices.name(seen.index) if seen.index is not None else None
        return route.as_route(seen, name) if name is not None or seen.kind != "unicast" else None

    def _publish(self, now: dict[IPNetwork, Route]) -> None:
        changes: dict[IPNetwork, Route | None] = {
            dst: now.get(dst) for dst in (*now, *self._routes) if now.get(dst) != self._routes.get(dst)
        }
        self._routes = now
        if changes:
            self._on_changes(changes)

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (self._events.fileno(), self._stop):
            poll.register(descriptor, select.POLLIN)
        stopped = select.poll()
        stopped.register(self._stop, select.POLLIN)
        while True:
            poll.poll()
            if stopped.poll(_GATHERING * 1000):
                return
            received, lost = self._drain()
            now = dict(self._routes)
            if lost or any(self._takes_routes_along(message) for message in received):
                now = self._read()
            else:
                devices = LinkCache(self._queries)
                for message in received:
                    self._apply(message, now, devices)
            self._publish(now)

    def _drain(self) -> tuple[list[Message], bool]:
        received: list[Message] = []
        lost = False
        while True:
            try:
                received += self._events.receive(wait=False)
            except BlockingIOError:
                return received, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True

    def _takes_routes_along(self, message: Message) -> bool:
        if message.type == link.RTM_NEWLINK and message.body[0] == 0:
            device = link.decode(message.body)
            return not device.up and any(each.dev == device.name for each in self._routes.values())
        return False

    def _apply(self, message: Message, now: dict[IPNetwork, Route], devices: LinkCache) -> None:
        if message.type not in (route.RTM_NEWROUTE, route.RTM_DELROUTE):
            return
        found = self._route(message, devices)
        if found is None:
            return
        if message.type == route.RTM_NEWROUTE:
            now[found.dst] = found
        elif now.get(found.dst) == found:
            del now[found.dst]


def flush_table(table: int, protocol: int) -> None:
    """Delete this protocol's routes of a table in the caller's namespace. Raises OSError."""
    with closing(netlink.Socket(netlink.ROUTE)) as socket:
        gone = frozenset((errno.ESRCH, errno.ENOENT))
        answers = socket.dump(route.RTM_GETROUTE, route.query_routes(table))
        requests = [Request(route.RTM_DELROUTE, 0, each.body, gone) for each in _of(answers, table, protocol)]
        for error in socket.request(requests):
            if error is not None:
                raise error


def _of(answers: list[Message], table: int, protocol: int) -> Iterator[Message]:
    for each in answers:
        seen = route.decode_route(each.body, table)
        if seen is not None and seen.protocol == protocol:
            yield each
