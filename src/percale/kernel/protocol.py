"""The kernel's edge: what a driver does, and what it tells. `driver.py` is the real one, `fake.py` the public fake.

The reconciler is the only caller of a driver that follows events; wiring and the lab use a driver for one namespace,
once, and close it. Both pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from percale.render.objects import IPAddress, IPInterface, IPNetwork, KernelObject, Key, Sysctl


class Upsert(Struct, frozen=True):
    """Make this object so, whatever stands at its key now."""

    object: KernelObject


class Delete(Struct, frozen=True):
    """Take this object away; that it is gone already is no error."""

    object: KernelObject


Change: TypeAlias = Upsert | Delete


class Interface(Struct, frozen=True):
    """A device as the kernel has it, ours or not."""

    name: str
    index: int
    mac: str | None
    mtu: int
    up: bool
    carrier: bool
    addresses: tuple[IPInterface, ...] = ()
    temporary: frozenset[IPInterface] = frozenset()
    master: str | None = None


class HostRoute(Struct, frozen=True):
    """A unicast route of the main table that is not ours: where the underlay goes."""

    dst: IPNetwork
    dev: str
    via: IPAddress | None
    metric: int
    src: IPAddress | None = None


class Underlay(Struct, frozen=True):
    """The node as it was before us: its interfaces and the routes of others. Equal means nothing moved."""

    interfaces: tuple[Interface, ...]
    routes: tuple[HostRoute, ...]


class ObjectChanged(Struct, frozen=True):
    """Somebody else put this object of our kinds there, or changed it."""

    object: KernelObject


class ObjectRemoved(Struct, frozen=True):
    """Somebody else removed what stood at this key."""

    key: Key


FASTPATH_TABLE: Key = ("ruleset", "netdev")
"""`table netdev percale`, loaded as a whole and described by no object: `ObjectRemoved` is its only event."""


class LinkReset(Struct, frozen=True):
    """This device went away, went down or lost an address: what was on it may have gone without a word."""

    dev: str


class UnderlayChanged(Struct, frozen=True):
    """An interface, an address or a route of others changed: read `underlay()` again."""


class ResyncRequired(Struct, frozen=True):
    """Events were lost or too coarse (an overrun, a flushed table): call `read()` again.

    `error` when a defect of ours lost them: worth a report, too.
    """

    error: Exception | None = None


KernelEvent: TypeAlias = ObjectChanged | ObjectRemoved | LinkReset | UnderlayChanged | ResyncRequired


class Driver(Protocol):
    """One network namespace. Every method blocks: never call one on the event loop."""

    def read(self) -> dict[Key, KernelObject]:
        """All objects of ours: by owner's mark, or on a device of ours."""

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        """Make the changes, in order, in as few messages as the kernel allows; one result each."""

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""

    def changed_sysctls(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        """Those of these that have another value now; one that cannot be read is none."""

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        """Report what others do, from now until `close()`; `on_events` is called on any thread, and takes note only."""

    def close(self) -> None:
        """Give back sockets and threads; the kernel's state stays."""
