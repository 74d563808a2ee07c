"""The interface to the kernel: a driver's methods and events. `rtnl/driver.py` is the real one, `rtnl/fake.py` the public fake.

The reconciler is the only caller of a driver that follows events; cni and the lab use a driver for one namespace,
once, and close it. Both pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress, IPInterface, IPNetwork
from percale.render.objects import KernelObject, Key, Sysctl


class Upsert(Struct, frozen=True):
    """Create the object or replace the one at its key."""

    object: KernelObject


class Delete(Struct, frozen=True):
    """Delete the object; that it is gone already is no error."""

    object: KernelObject


Change: TypeAlias = Upsert | Delete


class Interface(Struct, frozen=True):
    """A device of the kernel, ours or not."""

    name: str
    index: int
    mac: str | None
    mtu: int
    up: bool
    carrier: bool
    addresses: tuple[IPInterface, ...] = ()
    """Of each IP version the widest scope first, and of one scope the oldest: an address that is added comes after those."""
    temporary: frozenset[IPInterface] = frozenset()
    master: str | None = None


class HostRoute(Struct, frozen=True):
    """A unicast route of the main table that is not ours: part of the underlay."""

    dst: IPNetwork
    dev: str
    via: IPAddress | None
    metric: int
    src: IPAddress | None = None


class Underlay(Struct, frozen=True):
    """The node's network without our objects: interfaces and foreign routes. Equal means that nothing changed."""

    interfaces: tuple[Interface, ...]
    routes: tuple[HostRoute, ...]


class ObjectChanged(Struct, frozen=True):
    """An object of our kinds was created or changed by others."""

    object: KernelObject


class ObjectRemoved(Struct, frozen=True):
    """The object at this key was deleted by others."""

    key: Key


class LinkReset(Struct, frozen=True):
    """A device was deleted, went down or lost an address: objects on it may be gone without an event."""

    dev: str


class UnderlayChanged(Struct, frozen=True):
    """A foreign interface, address or route changed: read `underlay()` again."""


class ResyncRequired(Struct, frozen=True):
    """Events were lost or too coarse (an overrun, a flushed table): call `read()` again.

    `error` is set when a bug of ours lost them, and is to be reported.
    """

    error: Exception | None = None


KernelEvent: TypeAlias = ObjectChanged | ObjectRemoved | LinkReset | UnderlayChanged | ResyncRequired


class Driver(Protocol):
    """One network namespace. Every method blocks: never call one on the event loop."""

    def read(self) -> dict[Key, KernelObject]:
        """All owned objects: by the owner's mark, or on a device of ours."""

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        """Apply the changes in order, in as few messages as the kernel allows; one result each."""

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""

    def changed_sysctls(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        """Those with another value now; one that cannot be read is omitted."""

    def read_wireguard(self, devices: Iterable[str]) -> dict[Key, KernelObject]:
        """What these devices of ours have and the kernel reports no changes of: key, port, peers. A missing one has nothing."""

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        """Report changes by others until `close()`; `on_events` is called on any thread and must not block."""

    def close(self) -> None:
        """Close sockets and threads; the kernel's state remains."""
