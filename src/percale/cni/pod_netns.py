"""The pods' namespaces: one thread that enters one, applies or checks its objects, and leaves. Called by `attachments.py`.

The thread never stays inside: a namespace lives as long as a thread is in it, and the runtime may want to end it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from percale.errors import KernelError
from percale.event_loop import WorkerThread
from percale.kernel import syscalls
from percale.kernel.commands import format_object
from percale.kernel.errors import apply_or_raise
from percale.kernel.plan import matches
from percale.kernel.protocol import Upsert
from percale.kernel.rtnl.driver import KernelDriver
from percale.kernel.rtnl.dump import foreign_link
from percale.kernel.rtnl.neighbours import forget_neighbours
from percale.kernel.rtnl.readiness import wait_local, wait_operational
from percale.model.addresses import IPAddress
from percale.render.objects import Address, KernelObject

T = TypeVar("T")

_OWN = "/proc/thread-self/ns/net"
_NS_GET_NSTYPE = 0xB703


def _nothing() -> None:
    """Before an action, or after it."""


class NamespaceId(NamedTuple):
    """A namespace for as long as it lives, whatever its path: the device and inode of nsfs (namespaces(7))."""

    device: int
    inode: int


class PodNamespaces:
    """All methods are called on the event loop; none of them blocks it."""

    def __init__(self, log_command: Callable[[str], None] | None = None) -> None:
        """`log_command` gets each change's command before it is applied."""
        self._log_command = log_command
        self._thread = WorkerThread("pod-namespaces")

    async def apply(
        self, namespace: int, netns: str, objects: Sequence[KernelObject], host_device: str, bridge: str | None
    ) -> None:
        """Apply the objects in the namespace at the descriptor, and wait until packets to its addresses would be delivered.

        Packets for these addresses that wait on the bridge until somebody answers for them passed the policies before there
        was a pod: they are dropped. `netns` is its name, for messages. Raises KernelError.
        """
        first = partial(forget_neighbours, bridge, _addresses(objects)) if bridge is not None else _nothing
        action = partial(_make, objects)
        await self._within(namespace, netns, action, first=first, then=partial(wait_operational, host_device))

    async def missing(self, namespace: int, netns: str, objects: Sequence[KernelObject]) -> list[str]:
        """Those of the objects that do not exist, as the commands that would create them. Raises KernelError."""
        return await self._within(namespace, netns, partial(_missing, objects))

    async def _within(
        self,
        namespace: int,
        netns: str,
        action: Callable[[KernelDriver], T],
        *,
        first: Callable[[], object] = _nothing,
        then: Callable[[], object] = _nothing,
    ) -> T:
        log_command = self._log_command

        def enter() -> T:
            first()
            prefixed = partial(_prefixed, log_command, netns) if log_command is not None else None
            with _inside(namespace), closing(KernelDriver(log_command=prefixed)) as driver:
                done = action(driver)
            then()
            return done

        try:
            return await self._thread.run(enter)
        except OSError as error:
            raise KernelError.from_os(error, where=f"namespace {netns}") from error

    def close(self) -> None:
        """End the thread once its calls are done."""
        self._thread.close()


@contextmanager
def _inside(namespace: int) -> Iterator[None]:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(home)


def _prefixed(log_command: Callable[[str], None], netns: str, line: str) -> None:
    log_command(f"nsenter --net={netns} {line}")


def _make(objects: Sequence[KernelObject], driver: KernelDriver) -> None:
    apply_or_raise(driver, [Upsert(obj) for obj in objects])
    wait_local(_addresses(objects))


def _addresses(objects: Iterable[KernelObject]) -> list[IPAddress]:
    return [obj.address.ip for obj in objects if isinstance(obj, Address)]


def _missing(objects: Iterable[KernelObject], driver: KernelDriver) -> list[str]:
    there = driver.read()
    there |= {link.key: link for link in map(foreign_link, driver.underlay().interfaces)}
    # Sysctls are not compared: the pod may change them.
    desired = [obj for obj in objects if obj.key[0] != "sysctl"]
    return [format_object(obj) for obj in desired if not matches(obj, there.get(obj.key))]


def namespace_id(descriptor: int) -> NamespaceId:
    """Of the namespace at the descriptor. Raises OSError."""
    status = os.fstat(descriptor)
    return NamespaceId(status.st_dev, status.st_ino)


def is_foreign_namespace(descriptor: int) -> bool:
    """True for a network namespace that is not the caller's own. Raises OSError."""
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        return False
    return kind == syscalls.CLONE_NEWNET and not os.path.samestat(os.fstat(descriptor), Path(_OWN).stat())
