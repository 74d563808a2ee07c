"""Namespaces for tests with real packets and the machine's own tools; nothing is left of them afterwards."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.waiting import until

from percale.kernel.netns import NetnsThread, create_namespace, delete_namespace
from percale.kernel.rtnl.driver import KernelDriver
from percale.kernel.rtnl.readiness import wait_local

_ADDED = re.compile(r"addr\w* (?:add|replace) ([0-9a-f]*:[0-9a-f:]+)[/ ][^;]*(?:nodad|dev lo)")
"""An IPv6 address that a shell line adds, and that is not looked for at the neighbours first."""


def wait_added(line: str, inside: Callable[[Callable[[], bool]], bool]) -> None:
    """Wait until packets to the addresses that a shell line has added are delivered; `inside` runs in its namespace."""
    if added := [ip_address(each) for each in _ADDED.findall(line)]:
        until(lambda: inside(lambda: wait_local(added)), f"{added} are local")


class Space:
    """A network namespace pinned at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        create_namespace(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._drivers: list[KernelDriver] = []
        self._thread = NetnsThread(self.descriptor)

    def driver(self, log_command: Callable[[str], None] | None = None) -> KernelDriver:
        """A driver in here, closed at the end of the test."""
        self._drivers.append(KernelDriver(NetnsThread(self.descriptor), log_command=log_command))
        return self._drivers[-1]

    def run(self, *command: str, check: bool = True) -> str:
        """A program in here; what it printed."""
        done = self._thread.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def shell(self, line: str, descriptors: tuple[int, ...] = ()) -> str:
        """A shell line in here, with these descriptors open."""
        done = self._thread.run(
            lambda: subprocess.run(
                ["sh", "-ec", line], capture_output=True, text=True, pass_fds=descriptors, check=False
            )
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        wait_added(line, self._thread.run)
        return done.stdout

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._thread.close()
        os.close(self.descriptor)
        delete_namespace(self.path)


@pytest.fixture
def new_space(tmp_path: Path) -> Iterator[Callable[[], Space]]:
    """Makes as many namespaces as a test needs."""
    spaces: list[Space] = []

    def new() -> Space:
        spaces.append(Space(tmp_path / f"netns{len(spaces)}"))
        return spaces[-1]

    yield new
    for space in spaces:
        space.close()


@pytest.fixture
def space(new_space: Callable[[], Space]) -> Space:
    """One empty namespace."""
    return new_space()
