"""The `protocol.Driver` of the running kernel: one network namespace, changed in batches.

    changes ─▶ requests (netlink.link, .route, .tc) ─▶ as few sends as the order allows ─▶ one result per change
            └▶ sysctls, each in its place in the order

Devices are changed one by one, for the requests depend on the existing device; all else is queued until a change of another
kind comes. The reconciler calls from its worker thread; cni and the lab open a driver, use it once and close it.
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

from percale.kernel import commands, sysctl, tun
from percale.kernel.netlink import link, route, tc
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request
from percale.kernel.netns import CurrentNetns, NetnsExecutor, NetnsThread
from percale.kernel.protocol import Change, Delete, KernelEvent, Underlay, Upsert
from percale.kernel.rtnl.dump import NetlinkDump
from percale.kernel.rtnl.link_cache import LinkCache
from percale.kernel.rtnl.monitor import NetlinkMonitor
from percale.kernel.rtnl.wireguard import WireguardClient
from percale.render.link_kinds import Tun, Wireguard
from percale.render.objects import (
    WIREGUARD,
    Address,
    FdbEntry,
    KernelObject,
    Key,
    Link,
    Neighbour,
    Redirect,
    Route,
    Shaper,
    Sysctl,
    WireguardPeer,
)

_OnDevice: TypeAlias = Address | Neighbour | FdbEntry | Shaper | Redirect
_QUEUED = (Address, Route, Neighbour, FdbEntry, Shaper, Redirect)


class KernelDriver:
    """One network namespace of the running kernel. Not thread-safe."""

    def __init__(
        self,
        netns: NetnsExecutor | None = None,
        *,
        log_command: Callable[[str], None] | None = None,
    ) -> None:
        """In the namespace of `netns` (default: the caller's); `log_command` gets each change's command before it is applied.

        `netns` is closed with the driver. Raises OSError.
        """
        self._netns = netns or CurrentNetns()
        self._log_command = log_command
        self._route = self._netns.run(lambda: netlink.Socket(netlink.ROUTE))
        self._wireguard = WireguardClient(self._netns)
        self._observer: NetlinkMonitor | None = None

    def read(self) -> dict[Key, KernelObject]:
        """All owned objects: by the owner's mark, or on a device of ours."""
        found = {obj.key: obj for obj in NetlinkDump(self._route).ours()}
        tunnels = [obj.name for obj in found.values() if isinstance(obj, Link) and isinstance(obj.kind, Wireguard)]
        return {**found, **self.read_wireguard(tunnels)}

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""
        return NetlinkDump(self._route).underlay()

    def changed_sysctls(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        """Those with another value now; one that cannot be read is omitted."""
        if not settings:
            return ()
        return self._netns.run(lambda: [each for each in settings if sysctl.differs(each.name, each.value)])

    def read_wireguard(self, devices: Iterable[str]) -> dict[Key, KernelObject]:
        """What these devices of ours have and the kernel reports no changes of: key, port, peers."""
        links = LinkCache(self._route)
        found = [device for device in map(links.find, devices) if device is not None and device.ours]
        tunnels = [device for device in found if isinstance(links.link(device).kind, Wireguard)]
        return {obj.key: obj for each in tunnels for obj in self._wireguard.read(each.name, each.index)}

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        """Report changes by others until `close()`; `on_events` is called on any thread."""
        self._observer = self._netns.run(lambda: NetlinkMonitor(self._route.port, on_events))

    def close(self) -> None:
        """Close sockets and threads; the kernel's state remains."""
        if self._observer is not None:
            self._observer.close()
        self._route.close()
        self._wireguard.close()
        self._netns.close()

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        """Apply the changes in order, in as few messages as the kernel allows; one result each."""
        results: list[OSError | None] = []
        devices = LinkCache(self._route)
        for (kind, _), run in groupby(changes, _batch_key):
            batch = list(run)
            if self._log_command is not None:
                for change in batch:
                    for line in commands.to_commands(change):
                        self._log_command(line)
            if kind is Link and isinstance(batch[0], Delete):
                results += self._delete_links(batch, devices)
            elif kind is Link:
                results += (self._guarded(lambda change: self._link(change, devices), change) for change in batch)
            elif kind is Sysctl:
                results += (self._guarded(lambda change: self._sysctl(change, devices), change) for change in batch)
            elif kind in WIREGUARD:
                for _, changes_of_one in groupby(batch, lambda change: change.object.key[1]):
                    results += self._wireguard_changes(list(changes_of_one), devices)
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

    def _queued(self, changes: Sequence[Change], devices: LinkCache) -> list[OSError | None]:
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
        """Send all; raises the first error. The kernel goes on after an error, so each must be harmless without the others.

        In one send, which the kernel completes even if we are killed meanwhile: a device without our mark would be orphaned.
        """
        for error in self._route.request(requests):
            if error is not None:
                raise error

    def _link(self, change: Change, devices: LinkCache) -> None:
        desired = change.object
        assert isinstance(desired, Link)
        devices.invalidate(desired.name)
        device = devices.find(desired.name)
        try:
            if isinstance(change, Delete):
                if device is not None and desired.kind is not None:
                    self._send([link.delete(device.index)])
            elif device is None:
                self._create(desired, devices)
            else:
                self._update(desired, device, devices)
        finally:
            devices.invalidate(desired.name)

    def _create(self, desired: Link, devices: LinkCache, before: Sequence[Request] = ()) -> None:
        """rtnetlink can do everything with a TUN device but create it."""
        if not isinstance(desired.kind, Tun):
            self._send([*before, *link.create(desired, _new_index(), devices.index)])
            return
        self._send(before)
        self._netns.run(lambda: tun.create(desired.name))
        devices.invalidate(desired.name)
        if (device := devices.find(desired.name)) is not None:
            self._send(link.change(desired, devices.link(device), device.index, devices.index))

    def _delete_links(self, changes: Sequence[Change], devices: LinkCache) -> list[OSError | None]:
        """All at once; if the kernel rejects that, one by one."""
        links = [
            change.object for change in changes if isinstance(change.object, Link) and change.object.kind is not None
        ]
        for desired in links:
            devices.invalidate(desired.name)
        found = [device for device in (devices.find(desired.name) for desired in links) if device is not None]
        if len(found) > 1 and not any(self._route.request(link.delete_together([device.index for device in found]))):
            for desired in links:
                devices.invalidate(desired.name)
            return [None] * len(changes)
        return [self._guarded(lambda change: self._link(change, devices), change) for change in changes]

    def _update(self, desired: Link, device: link.Device, devices: LinkCache) -> None:
        """Change the existing device or recreate it; a foreign one of another kind is left alone."""
        actual = devices.link(device)
        if desired.kind is None or not link.needs_new_device(desired, actual):
            self._send(link.change(desired, actual, device.index, devices.index))
            return
        if desired.kind.name != device.kind and not device.ours:
            devices.exclude(desired.name)
            raise OSError(
                errno.EEXIST, f"{desired.name} is there already, a {device.kind or 'physical'} device that is not ours"
            )
        self._create(desired, devices, [link.delete(device.index)])

    def _wireguard_changes(self, changes: Sequence[Change], devices: LinkCache) -> list[OSError | None]:
        """Of one device."""
        obj = changes[0].object
        assert isinstance(obj, WIREGUARD)
        try:
            if isinstance(changes[0], Delete) and devices.find(obj.dev) is None:
                return [None] * len(changes)
            if any(isinstance(change, Upsert) for change in changes):
                devices.check_allowed(obj)
            return self._wireguard.apply(obj.dev, devices.index(obj.dev), changes)
        except OSError as error:
            return [error] * len(changes)
        except _UNFIT as error:
            return [_unfit(error)] * len(changes)

    def _sysctl(self, change: Change, devices: LinkCache) -> None:
        desired = change.object
        assert isinstance(desired, Sysctl)
        if isinstance(change, Upsert):
            devices.check_allowed(desired)
            self._netns.run(lambda: sysctl.write(desired.name, desired.value))


def _new_index() -> int:
    """The index of a new device. The kernel counts from 1: this half of the range has no foreign devices."""
    return secrets.randbelow(1 << 30) + (1 << 30)


_UNFIT = (ValueError, OverflowError, struct.error)
"""Raised for a value that no message can encode: one bad object must not fail the others."""


def _unfit(error: Exception) -> OSError:
    return OSError(errno.EINVAL, f"a value does not fit: {error}")


def _batch_key(change: Change) -> tuple[type, bool]:
    """Changes with the same key may share a send; device deletions are not mixed with upserts."""
    kind = type(change.object)
    if kind in WIREGUARD:
        return WireguardPeer, True
    return (Address, True) if kind in _QUEUED else (kind, kind is not Link or isinstance(change, Upsert))


def _encode(change: Change, devices: LinkCache) -> list[Request]:
    """The requests of one change; a deletion on a missing device needs none. Raises OSError."""
    desired = change.object
    assert isinstance(desired, _QUEUED)
    if isinstance(change, Upsert):
        devices.check_allowed(desired)
    device = devices.find(desired.dev) if desired.dev is not None else None
    if device is None and desired.dev is not None:
        if isinstance(change, Delete):
            return []
        raise OSError(errno.ENODEV, f"no device {desired.dev} here")
    if isinstance(desired, Route):
        index = device.index if device is not None else None
        if isinstance(change, Upsert):
            return [*route.delete_conflicting_route(desired), *route.put_route(desired, index)]
        return route.remove_route(desired, index, any_protocol=device is not None and device.ours)
    assert device is not None
    if isinstance(change, Upsert):
        return _encode_put(desired, device.index, devices)
    return _encode_remove(desired, device.index)


def _encode_put(desired: _OnDevice, index: int, devices: LinkCache) -> list[Request]:
    match desired:
        case FdbEntry():
            return route.put_fdb(desired, index)
        case Neighbour():
            return route.put_neighbour(desired, index)
        case Address():
            return route.put_address(desired, index)
        case Shaper():
            return tc.put_shaper(desired, index)
        case Redirect():
            return tc.put_redirect(index, devices.index(desired.to))


def _encode_remove(desired: _OnDevice, index: int) -> list[Request]:
    match desired:
        case FdbEntry():
            return route.remove_fdb(desired, index)
        case Neighbour():
            return route.remove_neighbour(desired, index)
        case Address():
            return route.remove_address(desired, index)
        case Shaper():
            return tc.remove_shaper(index)
        case Redirect():
            return tc.remove_redirect(index)


@contextmanager
def opened(namespace: int | None = None, *, log_command: Callable[[str], None] | None = None) -> Iterator[KernelDriver]:
    """A driver in the namespace at this descriptor (None: the caller's), closed at the end. Raises OSError."""
    netns = NetnsThread(namespace) if namespace is not None else CurrentNetns()
    try:
        driver = KernelDriver(netns, log_command=log_command)
    except OSError:
        netns.close()
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
