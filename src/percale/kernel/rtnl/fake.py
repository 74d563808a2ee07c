"""A kernel in memory for tests, here and elsewhere: it passes the same contract tests as the real driver.

It implements the rules that a caller depends on (a device takes its objects along, IPv4 routes go without an event when it goes
down), records what was written, fails changes on request, and lets a test act as another program.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from percale.kernel.netlink.link_kinds.registry import codec_of
from percale.kernel.plan import dependencies_of, matches, replaces
from percale.kernel.protocol import (
    Change,
    Delete,
    HostRoute,
    Interface,
    KernelEvent,
    LinkReset,
    ObjectChanged,
    ObjectRemoved,
    ResyncRequired,
    Underlay,
    UnderlayChanged,
)
from percale.render.objects import OWNER, WIREGUARD, KernelObject, Key, Link, Route, Sysctl, WireguardPeer

LOOPBACK = Interface(name="lo", index=1, mac="00:00:00:00:00:00", mtu=65536, up=False, carrier=False)


class FakeKernel:
    """One network namespace, empty except for the loopback device."""

    def __init__(self, interfaces: Iterable[Interface] = (LOOPBACK,), routes: Iterable[HostRoute] = ()) -> None:
        self.interfaces: dict[str, Interface] = {interface.name: interface for interface in interfaces}
        self.routes: tuple[HostRoute, ...] = tuple(routes)
        self.objects: dict[Key, KernelObject] = {}
        self.sysctls: dict[str, str] = {}
        self._excluded: set[str] = set()
        """Foreign devices with the name of a desired one, in the current batch."""
        self.written: list[Change] = []
        """Every effective change of ours, in order."""
        self.refusals: dict[Key, int] = {}
        """Keys whose changes fail, and the errno."""
        self.closed = False
        self._next_index = 100
        self._on_events: Callable[[Iterable[KernelEvent]], None] = lambda _: None

    # The driver

    def read(self) -> dict[Key, KernelObject]:
        """All owned objects."""
        return {key: obj for key, obj in self.objects.items() if not isinstance(obj, Link) or obj.alias == OWNER}

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        """Apply the changes in order; one result each."""
        self._excluded.clear()
        return [self._try(change) for change in changes]

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""
        return Underlay(tuple(self.interfaces.values()), self.routes)

    def changed_sysctls(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        """Those with another value now."""
        return [each for each in settings if self.sysctls.get(each.name, each.value) != each.value]

    def read_wireguard(self, devices: Iterable[str]) -> dict[Key, KernelObject]:
        """What these devices have, of which there are no events."""
        named = set(devices)
        return {key: obj for key, obj in self.objects.items() if isinstance(obj, WIREGUARD) and obj.dev in named}

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        """Report what `interfere` and the like do, on the thread that calls them."""
        self._on_events = on_events

    def close(self) -> None:
        """Report no more events."""
        self.closed = True
        self._on_events = lambda _: None

    # For tests

    def refuse(self, key: Key, number: int = errno.EOPNOTSUPP) -> None:
        """Fail every change of this object from now on."""
        self.refusals[key] = number

    def interfere(self, *changes: Change) -> None:
        """Make these changes as another program. Raises OSError."""
        events: list[KernelEvent] = []
        for change in changes:
            events += self._change(change)
        self._on_events(events)

    def change_underlay(self, underlay: Underlay) -> None:
        """Replace the node's interfaces and routes; objects on those that are gone or down go without an event."""
        before = self.interfaces
        self.interfaces = {interface.name: interface for interface in underlay.interfaces}
        self.routes = underlay.routes
        events: list[KernelEvent] = []
        for name, interface in before.items():
            now = self.interfaces.get(name)
            if now is None or now.index != interface.index:
                events += [LinkReset(name), *self._remove_dependents(("link", name))]
            elif interface.up and not now.up:
                events += self._go_down(name)
        self._on_events([*events, UnderlayChanged()])

    def lose_events(self) -> None:
        """As if the kernel's messages had overrun their buffer."""
        self._on_events([ResyncRequired(), UnderlayChanged()])

    # The kernel's rules

    def _try(self, change: Change) -> OSError | None:
        number = self.refusals.get(change.object.key)
        if number is not None:
            return OSError(number, os.strerror(number))
        before = self._state(change.object)
        try:
            self._change(change)
        except OSError as error:
            return error
        if self._state(change.object) != before:
            self.written.append(change)
        return None

    def _state(self, obj: KernelObject) -> tuple[object, ...]:
        """The state that a change of this object can affect."""
        there = self.objects.get(obj.key), len(self.objects)
        return (*there, self.interfaces.get(str(obj.key[1])), self.sysctls.get(str(obj.key[1])))

    def _change(self, change: Change) -> list[KernelEvent]:
        obj = change.object
        if isinstance(change, Delete):
            return self._remove(obj)
        match obj:
            case Sysctl():
                self._require(obj)
                self.sysctls[obj.name] = obj.value
                return []
            case Link():
                return self._put_link(obj)
        self._require(obj)
        if isinstance(obj, WireguardPeer):
            self._move_networks(obj)
        self.objects[obj.key] = obj
        return [ObjectChanged(obj)] if not isinstance(obj, WIREGUARD) else []

    def _move_networks(self, peer: WireguardPeer) -> None:
        """Each is one peer's."""
        for key, other in self.objects.items():
            if isinstance(other, WireguardPeer) and other.dev == peer.dev and key != peer.key:
                self.objects[key] = replace(other, allowed=other.allowed - peer.allowed)

    def _require(self, obj: KernelObject) -> None:
        """Its dependencies exist. Raises OSError."""
        for kind, name in dependencies_of(obj):
            there = (kind, name) in self.objects or name in self.interfaces
            if kind == "link" and (not there or name in self._excluded):
                raise OSError(errno.ENODEV, f"no device {name} here")

    def _put_link(self, desired: Link) -> list[KernelEvent]:
        self._require(desired)
        if desired.kind is None:
            return self._set_interface(desired)
        actual = self.objects.get(desired.key)
        if actual is None and desired.name in self.interfaces:
            self._excluded.add(desired.name)
            raise OSError(errno.EEXIST, f"{desired.name} is there already, a physical device that is not ours")
        if matches(desired, actual):
            return []
        codec = codec_of(desired.kind)
        events: list[KernelEvent] = []
        if replaces(desired, actual):
            codec.encode(desired.kind, lambda _name: 0)  # as the kernel, it refuses what cannot be created
            events += self._remove_dependents(desired.key)
            actual = None
            self._create_other_end(codec.other_end(desired.kind))
        known = (
            actual
            if isinstance(actual, Link)
            else Link(desired.name, up=False, mtu=1500, mac=self._new_mac(), arp=True)
        )
        self.objects[desired.key] = link = replace(
            desired,
            kind=codec.reported(desired.kind, known.kind),
            mtu=desired.mtu or known.mtu,
            mac=desired.mac or known.mac,
            master=desired.master or known.master,
            hairpin=desired.hairpin if desired.hairpin is not None else known.hairpin,
            arp=desired.arp if desired.arp is not None else known.arp,
        )
        if known.up and not desired.up:
            events += self._go_down(desired.name)
        elif link.mac != known.mac or link.arp != known.arp:
            events += self._drop(desired.name, "neighbour")
        return [*events, ObjectChanged(link)]

    def _create_other_end(self, end: Link | None) -> None:
        if end is not None:
            index = int(self._new_mac()[-2:], 16) + 100
            self.interfaces[end.name] = Interface(end.name, index, end.mac, 1500, up=False, carrier=False)

    def _new_mac(self) -> str:
        self._next_index += 1
        return f"02:00:00:00:00:{self._next_index & 0xFF:02x}"

    def _set_interface(self, desired: Link) -> list[KernelEvent]:
        if desired.name not in self.interfaces:
            raise OSError(errno.ENODEV, f"no device {desired.name} here")
        actual = self.interfaces[desired.name]
        self.interfaces[desired.name] = replace(
            actual,
            up=desired.up,
            mtu=desired.mtu or actual.mtu,
            mac=desired.mac or actual.mac,
            master=desired.master or actual.master,
        )
        return [*(self._go_down(desired.name) if actual.up and not desired.up else ()), UnderlayChanged()]

    def _remove(self, obj: KernelObject) -> list[KernelEvent]:
        if isinstance(obj, Sysctl) or (isinstance(obj, Link) and obj.kind is None) or obj.key not in self.objects:
            return []
        events = [LinkReset(obj.name)] if isinstance(obj, Link) else []
        del self.objects[obj.key]
        removed = [ObjectRemoved(obj.key)] if not isinstance(obj, WIREGUARD) else []
        return [*events, *self._remove_dependents(obj.key), *removed]

    def _remove_dependents(self, lower: Key) -> list[KernelEvent]:
        """Delete what depends on this; a bridge's ports remain, without it."""
        events: list[KernelEvent] = []
        for key, obj in list(self.objects.items()):
            if lower not in dependencies_of(obj):
                continue
            if isinstance(obj, Link) and ("link", obj.master) == lower:
                self.objects[key] = left = replace(obj, master=None, hairpin=None)
                events.append(ObjectChanged(left))
            elif self.objects.pop(key, None) is not None:
                events += [*self._remove_dependents(key), *(() if isinstance(obj, Route) else (ObjectRemoved(key),))]
        return events

    def _go_down(self, name: str) -> list[KernelEvent]:
        """Routes and neighbours are deleted, IPv4 routes without an event."""
        self._drop(name, "route")
        return [LinkReset(name), *self._drop(name, "neighbour")]

    def _drop(self, name: str, kind: str) -> list[KernelEvent]:
        """Delete all of one kind on a device."""
        gone = [key for key, obj in self.objects.items() if key[0] == kind and ("link", name) in dependencies_of(obj)]
        for key in gone:
            del self.objects[key]
        return [ObjectRemoved(key) for key in gone]
