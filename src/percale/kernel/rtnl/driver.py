"""The kernel itself behind `protocol.Driver`: one network namespace, changed in batches.

    changes ─▶ requests (links, rtnetlink, traffic) ─▶ as few sends as order allows ─▶ one result per change
            └▶ elements and tables (nftables), sysctls, each in its place in the order

Devices are changed one by one, for what to do depends on what is there; all else waits in one queue until something of
another sort comes. The reconciler calls from its worker thread; wiring and the lab open a driver, use it once and close it.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from typing import TypeAlias

from percale.kernel import commands, sysctl
from percale.kernel.netlink import link, route, tc
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request
from percale.kernel.netns import CurrentNetns, NetnsExecutor, NetnsThread
from percale.kernel.nftables import static_tables
from percale.kernel.nftables.commit import EventSubscriptions
from percale.kernel.protocol import Change, Delete, KernelEvent, Underlay, Upsert
from percale.kernel.rtnl.dump import Reading
from percale.kernel.rtnl.link_cache import Devices
from percale.kernel.rtnl.monitor import NetlinkMonitor
from percale.render.objects import (
    Address,
    Element,
    FdbEntry,
    KernelObject,
    Key,
    Link,
    Neighbour,
    Redirect,
    Route,
    Ruleset,
    Shaper,
    Sysctl,
)

_Placed: TypeAlias = Address | Neighbour | FdbEntry | Shaper | Redirect
_QUEUED = (Address, Route, Neighbour, FdbEntry, Shaper, Redirect)


class KernelDriver:
    """One network namespace of the running kernel. No two threads at a time."""

    def __init__(
        self,
        place: NetnsExecutor | None = None,
        *,
        log_command: Callable[[str], None] | None = None,
        subscriptions: EventSubscriptions | None = None,
    ) -> None:
        """In the namespace of `place` (default: the caller's); `log_command` gets each change's command line before it is made.

        `place` is closed with the driver. `subscriptions` is shared with the table's keeper. Raises OSError.
        """
        self._place = place or CurrentNetns()
        self._log_command = log_command
        self._route = self._place.run(lambda: netlink.Socket(netlink.ROUTE))
        self._tables = static_tables.Tables(
            self._place.run(lambda: netlink.Socket(netlink.NETFILTER)),
            self._place,
            subscriptions or EventSubscriptions(),
        )
        self._observer: NetlinkMonitor | None = None

    def read(self) -> dict[Key, KernelObject]:
        """All objects of ours: by owner's mark, or on a device of ours."""
        return {obj.key: obj for obj in (*Reading(self._route).ours(), *self._tables.read())}

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""
        return Reading(self._route).underlay()

    def strayed(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        """Those of these that have another value now; one that cannot be read is none."""
        if not settings:
            return ()
        return self._place.run(lambda: [each for each in settings if sysctl.differs(each.name, each.value)])

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        """Report what others do, until `close()`; `on_events` is called on any thread."""
        self._observer = self._place.run(lambda: NetlinkMonitor(self._route.port, self._tables, on_events))

    def close(self) -> None:
        """Give back sockets and threads; the kernel's state stays."""
        if self._observer is not None:
            self._observer.close()
        self._route.close()
        self._tables.close()
        self._place.close()

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        """Make the changes, in order, in as few messages as the kernel allows; one result each."""
        results: list[OSError | None] = []
        devices = Devices(self._route)
        for (sort, _), run in groupby(changes, _sort):
            batch = list(run)
            if self._log_command is not None:
                for change in batch:
                    for line in commands.spell(change):
                        self._log_command(line)
            if sort is Link and isinstance(batch[0], Delete):
                results += self._remove_links(batch, devices)
            elif sort is Link:
                results += (self._guarded(lambda change: self._link(change, devices), change) for change in batch)
            elif sort is Sysctl:
                results += (self._guarded(lambda change: self._sysctl(change, devices), change) for change in batch)
            elif sort is Ruleset:
                results += (self._guarded(lambda change: self._ruleset(change, changes), change) for change in batch)
            elif sort is Element:
                results += self._tables.apply_elements(batch)
            else:
                results += self._queued(batch, devices)
        return results

    @staticmethod
    def _guarded(action: Callable[[Change], None], change: Change) -> OSError | None:
        try:
            action(change)
        except OSError as error:
            return error
        except _UNFIT as error:
            return _unfit(error)
        return None

    def _queued(self, changes: Sequence[Change], devices: Devices) -> list[OSError | None]:
        """All requests of all changes at once; a change's result is its first error."""
        results: list[OSError | None] = [None] * len(changes)
        requests: list[Request] = []
        origins: list[int] = []
        for position, change in enumerate(changes):
            try:
                encoded = _encode(change, devices)
            except OSError as error:
                results[position] = error
                continue
            except _UNFIT as error:
                results[position] = _unfit(error)
                continue
            requests += encoded
            origins += [position] * len(encoded)
        for origin, outcome in zip(origins, self._route.request(requests), strict=True):
            results[origin] = results[origin] or outcome
        return results

    def _send(self, requests: Sequence[Request]) -> None:
        """All of them; raises the first error, but the kernel goes on after it: each is to be harmless without those before.

        In one send, which the kernel works off even when we are killed meanwhile: a device without our mark would be nobody's.
        """
        for error in self._route.request(requests):
            if error is not None:
                raise error

    def _link(self, change: Change, devices: Devices) -> None:
        wish = change.object
        assert isinstance(wish, Link)
        devices.forget(wish.name)
        device = devices.find(wish.name)
        try:
            if isinstance(change, Delete):
                if device is not None and wish.kind is not None:
                    self._send([link.delete(device.index)])
            elif device is None:
                self._create(wish, devices)
            else:
                self._settle(wish, device, devices)
        finally:
            devices.forget(wish.name)

    def _remove_links(self, changes: Sequence[Change], devices: Devices) -> list[OSError | None]:
        """Several at once; when the kernel refuses that, one by one."""
        wishes = [
            change.object for change in changes if isinstance(change.object, Link) and change.object.kind is not None
        ]
        for wish in wishes:
            devices.forget(wish.name)
        found = [device for device in (devices.find(wish.name) for wish in wishes) if device is not None]
        if len(found) > 1 and not any(self._route.request(link.delete_together([device.index for device in found]))):
            for wish in wishes:
                devices.forget(wish.name)
            return [None] * len(changes)
        return [self._guarded(lambda change: self._link(change, devices), change) for change in changes]

    def _create(self, wish: Link, devices: Devices) -> None:
        if wish.kind is None:
            raise OSError(errno.ENODEV, f"no device {wish.name} here")
        self._send(link.create(wish, _new_index(), devices.index))

    def _settle(self, wish: Link, device: link.Device, devices: Devices) -> None:
        """Change the device that is there, or make it anew; one of another kind that is not ours is left alone."""
        have = devices.link(device)
        if not link.needs_new_device(wish, have):
            self._send(link.change(wish, have, device.index, devices.index))
            return
        if wish.kind != device.kind and not device.ours:
            devices.bar(wish.name)
            raise OSError(
                errno.EEXIST, f"{wish.name} is there already, a {device.kind or 'physical'} device that is not ours"
            )
        requests = link.create(wish, _new_index(), devices.index)
        self._send([link.delete(device.index), *requests])

    def _sysctl(self, change: Change, devices: Devices) -> None:
        wish = change.object
        assert isinstance(wish, Sysctl)
        if isinstance(change, Upsert):
            devices.admit(wish)
            self._place.run(lambda: sysctl.write(wish.name, wish.value))

    def _ruleset(self, change: Change, changes: Sequence[Change]) -> None:
        wish = change.object
        assert isinstance(wish, Ruleset)
        if isinstance(change, Upsert):
            puts = (other.object for other in changes if isinstance(other, Upsert))
            self._tables.load(wish, [obj for obj in puts if isinstance(obj, Element) and obj.family == wish.family])
        else:
            self._tables.remove(wish.family)


def _new_index() -> int:
    """For a device to be made. The kernel counts from 1: in this half of the numbers there are no others' devices."""
    return secrets.randbelow(1 << 30) + (1 << 30)


_UNFIT = (ValueError, OverflowError, struct.error)
"""What encoding raises for a value that no message can hold: one bad object must not stop the others."""


def _unfit(error: Exception) -> OSError:
    return OSError(errno.EINVAL, f"a value does not fit: {error}")


def _sort(change: Change) -> tuple[type, bool]:
    """What may share a send; devices that go are not mixed with those that come."""
    kind = type(change.object)
    return (Address, True) if kind in _QUEUED else (kind, kind is not Link or isinstance(change, Upsert))


def _encode(change: Change, devices: Devices) -> list[Request]:
    """The requests of one change; removing something from a device that is gone needs none. Raises OSError."""
    wish = change.object
    assert isinstance(wish, _QUEUED)
    if isinstance(change, Upsert):
        devices.admit(wish)
    device = devices.find(wish.dev) if wish.dev is not None else None
    if device is None and wish.dev is not None:
        if isinstance(change, Delete):
            return []
        raise OSError(errno.ENODEV, f"no device {wish.dev} here")
    if isinstance(wish, Route):
        index = device.index if device is not None else None
        if isinstance(change, Upsert):
            return [*route.delete_conflicting_route(wish), *route.put_route(wish, index)]
        return route.remove_route(wish, index, any_protocol=device is not None and device.ours)
    assert device is not None
    if isinstance(change, Upsert):
        return _encode_put(wish, device.index, devices)
    return _encode_remove(wish, device.index)


def _encode_put(wish: _Placed, index: int, devices: Devices) -> list[Request]:
    match wish:
        case FdbEntry():
            return route.put_fdb(wish, index)
        case Neighbour():
            return route.put_neighbour(wish, index)
        case Address():
            return route.put_address(wish, index)
        case Shaper():
            return tc.put_shaper(wish, index)
        case Redirect():
            return tc.put_redirect(index, devices.index(wish.to))


def _encode_remove(wish: _Placed, index: int) -> list[Request]:
    match wish:
        case FdbEntry():
            return route.remove_fdb(wish, index)
        case Neighbour():
            return route.remove_neighbour(wish, index)
        case Address():
            return route.remove_address(wish, index)
        case Shaper():
            return tc.remove_shaper(index)
        case Redirect():
            return tc.remove_redirect(index)


@contextmanager
def opened(namespace: int | None = None, *, log_command: Callable[[str], None] | None = None) -> Iterator[KernelDriver]:
    """A driver in the namespace behind this descriptor (None: the caller's), closed at the end. Raises OSError."""
    place = NetnsThread(namespace) if namespace is not None else CurrentNetns()
    try:
        driver = KernelDriver(place, log_command=log_command)
    except OSError:
        place.close()
        raise
    with closing(driver):
        yield driver


@contextmanager
def opened_at(
    path: str | os.PathLike[str], *, log_command: Callable[[str], None] | None = None
) -> Iterator[KernelDriver]:
    """A driver in the namespace pinned at a path. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with opened(descriptor, log_command=log_command) as driver:
            yield driver
    finally:
        os.close(descriptor)
