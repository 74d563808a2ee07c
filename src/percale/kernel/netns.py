"""Network namespaces: entered by a named helper thread, created and pinned at a path, all without a fork.

`rtnl/driver.py` opens sockets and sysctls and runs `nft` in such a thread; the lab creates and deletes namespaces here.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from percale.kernel import syscalls

T = TypeVar("T")


class NetnsExecutor(Protocol):
    """Runs callables in a network namespace."""

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`, or its exception."""

    def close(self) -> None:
        """End; no more calls."""


class CurrentNetns:
    """The calling thread's namespace."""

    def run(self, action: Callable[[], T]) -> T:
        return action()

    def close(self) -> None:
        """Nothing to close."""


class NetnsThread:
    """A thread that enters a network namespace once and runs callables there, one at a time."""

    def __init__(self, namespace: int, name: str = "netns") -> None:
        """`namespace` is an open descriptor; it may be closed afterwards. Raises OSError when it cannot be entered."""
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        try:
            self.run(lambda: syscalls.setns(namespace, syscalls.CLONE_NEWNET))
        except OSError:
            self.close()
            raise

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            action, future = call
            try:
                future.set_result(action())
            except BaseException as error:  # raised in the caller, by the future
                future.set_exception(error)
            del action, future, call  # do not keep a finished caller's objects alive while waiting

    def run(self, action: Callable[[], T]) -> T:
        """Run it inside the namespace and wait; its exception is raised here."""
        future: Future[T] = Future()
        self._calls.put((action, future))
        return future.result()

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        self._thread.join()


def create_namespace(path: str | Path) -> None:
    """A new network namespace pinned by a bind mount at `path`, as `ip netns add` does. Raises OSError."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o444, exist_ok=False)

    def create() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.mount("/proc/thread-self/ns/net", str(target), None, syscalls.MS_BIND)

    try:
        _in_new_thread(create, name="netns-create")
    except OSError:
        target.unlink()
        raise


def delete_namespace(path: str | Path) -> None:
    """Unpin the namespace at `path`; the kernel ends it once it is unused. That it is gone already is no error."""
    target = Path(path)
    try:
        syscalls.umount(str(target))
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EINVAL:  # not, or no longer, a mount point
            raise
    target.unlink(missing_ok=True)


def anonymous_namespace() -> int:
    """A descriptor of a new network namespace, which exists as long as it is open or in use."""
    opened: list[int] = []

    def create() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    _in_new_thread(create, name="netns-create")
    return opened[0]


def _in_new_thread(action: Callable[[], None], name: str) -> None:
    """For calls that change their thread, which ends with them."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            action()
        except OSError as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    outcome.result()
