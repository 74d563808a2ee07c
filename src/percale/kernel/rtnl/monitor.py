"""Changes by others in a namespace, as events: one thread that receives rtnetlink notifications.

Started by `driver.follow`. Our own changes are no events: the kernel filters our routes, neighbours and addresses out, and our
own devices only update the monitor's state.

A device that goes down, or loses an IPv4 address, takes routes along without a notification: that is a `LinkReset`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from percale.backoff import Backoff
from percale.kernel.netlink import link, route, tc
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.link import Device
from percale.kernel.netlink.socket import Message
from percale.kernel.protocol import (
    KernelEvent,
    LinkReset,
    ObjectChanged,
    ObjectRemoved,
    ResyncRequired,
    UnderlayChanged,
)
from percale.kernel.rtnl.link_cache import LinkCache
from percale.render.objects import Address, FdbEntry, Neighbour, neighbour_key

_LINK, _NEIGHBOUR, _TRAFFIC, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 1, 3, 4, 5, 7, 9, 11
_IPV4_SETTING, _IPV6_SETTING = 24, 25
_ROUTE_GROUPS = (
    *(_LINK, _NEIGHBOUR, _TRAFFIC, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE),
    *(_IPV4_SETTING, _IPV6_SETTING),
)
_GATHERING = 0.01
"""Seconds from the first notification to their processing: they come in bursts, and most are of our own changes."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds until it restarts after a bug of ours; doubled each time, until it has run for the longest."""
_MOST_AT_ONCE = 2000
"""Datagrams read before their events are passed on."""


class NetlinkMonitor:
    """Created in the namespace; its thread may be in any."""

    def __init__(self, own_port: int, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        self._own_port = own_port
        self._on_events = on_events
        self._queries = netlink.Socket(netlink.ROUTE)
        self._route = netlink.Socket(netlink.ROUTE, _ROUTE_GROUPS)
        self._route.ignore(own_port, keep=(link.RTM_NEWLINK, link.RTM_DELLINK))
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._devices = self._load()
        self._thread = threading.Thread(target=self._run, name="kernel-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._queries.close()
        self._route.close()
        os.close(self._stop)

    def _run(self) -> None:
        """Receive until closed. A bug is reported as lost events, and the next attempt begins after a pause."""
        backoff, listen = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), self._listen
        while True:
            began = time.monotonic()
            try:
                listen()
            except Exception as error:  # an agent without events must not look healthy
                self._on_events([ResyncRequired(error), UnderlayChanged()])
            if time.monotonic() - began > _LONGEST_PAUSE:
                backoff.reset()
            if self._ends_within(backoff.next()):
                return
            listen = self._listen_again

    def _ends_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _load(self) -> dict[int, Device]:
        return {device.index: device for device in LinkCache(self._queries).load()}

    def _listen_again(self) -> None:
        self._devices = self._load()
        self._listen()

    def _listen(self) -> None:
        poll = select.poll()
        for descriptor in (self._route.fileno(), self._stop):
            poll.register(descriptor, select.POLLIN)
        while True:
            poll.poll()
            if self._ends_within(_GATHERING):
                return
            if events := _deduplicated(self._drain()):
                self._on_events(events)

    def _drain(self) -> Iterator[KernelEvent]:
        """The events of all pending messages, which are received before any is decoded, so that none is lost."""
        received: list[Message] = []
        lost = False
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_AT_ONCE):
                try:
                    received += self._route.receive(wait=False)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    lost = True
        for message in received:
            try:
                yield from self._events(message)
            except (struct.error, ValueError, LookupError):  # a message of a newer kernel: resync instead
                lost = True
        if lost:
            yield ResyncRequired()
            yield UnderlayChanged()

    # Routes, addresses, neighbours, devices

    def _events(self, message: Message) -> Iterator[KernelEvent]:
        match message.type:
            case link.RTM_NEWLINK | link.RTM_DELLINK:
                yield from self._link(message)
            case route.RTM_NEWADDR | route.RTM_DELADDR:
                yield from self._address(message)
            case route.RTM_NEWROUTE | route.RTM_DELROUTE:
                yield from self._route_of(message)
            case route.RTM_NEWNEIGH | route.RTM_DELNEIGH:
                yield from self._neighbour(message)
            case tc.RTM_DELQDISC:
                yield from self._qdisc(message)
            case route.RTM_NEWNETCONF:
                ended = route.decode_end_of_forwarding(message.body)
                if ended is not None:
                    yield ObjectRemoved(("sysctl", ended))

    def _device(self, index: int | None) -> Device | None:
        """The device of a message, None when it is gone."""
        return self._devices.get(index) if index is not None else None

    def _link(self, message: Message) -> Iterator[KernelEvent]:
        if message.body[0] != 0:
            return  # a message of a bridge about its port, not of the device
        device = link.decode(message.body)
        before = self._devices.pop(device.index, None)
        own = message.port == self._own_port
        if message.type == link.RTM_NEWLINK:
            self._devices[device.index] = device
        if own:
            return
        ours = device.ours or (before is not None and before.ours)
        if message.type == link.RTM_DELLINK or (before is not None and before.name != device.name):
            name = before.name if before is not None else device.name
            yield LinkReset(name)
            yield ObjectRemoved(("link", name)) if ours else UnderlayChanged()
        if message.type == link.RTM_NEWLINK:
            if before is not None and before.up and not device.up:
                yield LinkReset(device.name)
            yield ObjectChanged(link.as_link(device, self._name)) if ours else UnderlayChanged()

    def _name(self, index: int) -> str | None:
        device = self._devices.get(index)
        return device.name if device is not None else None

    def _address(self, message: Message) -> Iterator[KernelEvent]:
        seen = route.decode_address(message.body)
        device = self._device(seen.index)
        if device is None:
            return
        gone = message.type == route.RTM_DELADDR
        if gone and seen.address.version == 4:
            yield LinkReset(device.name)
        if seen.ours or (device.ours and not seen.kernel_assigned):
            address = Address(device.name, seen.address)
            yield ObjectRemoved(address.key) if gone else ObjectChanged(address)
        elif not device.ours:
            yield UnderlayChanged()

    def _route_of(self, message: Message) -> Iterator[KernelEvent]:
        seen = route.decode_route(message.body)
        if seen is None:
            return
        device = self._device(seen.index)
        changed = route.as_route(seen, device.name if device is not None else None)
        ours = seen.ours or (device is not None and device.ours and not seen.kernel_managed)
        gone = message.type == route.RTM_DELROUTE
        if ours:
            yield ObjectRemoved(changed.key) if gone else ObjectChanged(changed)
            return
        if not gone and message.flags & netlink.REPLACE:
            yield ObjectRemoved(changed.key)  # the replaced one may have been ours
        if device is not None and not device.ours:
            yield UnderlayChanged()

    def _neighbour(self, message: Message) -> Iterator[KernelEvent]:
        seen = route.decode_neighbour(message.body)
        device = self._device(seen.index) if seen is not None else None
        if seen is None or device is None or not (seen.ours or device.ours) or (seen.fdb and not device.has_fdb):
            return
        there = message.type == route.RTM_NEWNEIGH and seen.permanent
        if seen.fdb and seen.mac is not None:
            if there and seen.dst is not None:
                yield ObjectChanged(FdbEntry(device.name, seen.mac, seen.dst))
            else:
                yield ObjectRemoved(("fdb", device.name, seen.mac))
        elif not seen.fdb and seen.dst is not None:
            if there and seen.mac is not None:
                yield ObjectChanged(Neighbour(device.name, seen.dst, seen.mac))
            else:
                yield ObjectRemoved(neighbour_key(device.name, seen.dst))

    def _qdisc(self, message: Message) -> Iterator[KernelEvent]:
        device = self._device(tc.device_of(message.body))
        if device is None or not device.ours:
            return
        if tc.is_ingress(message.body):
            yield ObjectRemoved(("redirect", device.name))
        elif tc.decode_shaper(message.body) is not None:
            yield ObjectRemoved(("shaper", device.name))


def _deduplicated(events: Iterable[KernelEvent]) -> list[KernelEvent]:
    """The events without redundant repetitions: the coarse ones come once, at the end."""
    fine: list[KernelEvent] = []
    coarse: set[KernelEvent] = set()
    for event in events:
        if isinstance(event, UnderlayChanged | ResyncRequired):
            coarse.add(event)
        elif not fine or fine[-1] != event:
            fine.append(event)
    return [*fine, *coarse]
