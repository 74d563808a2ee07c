"""Namespaces entered and made without a fork, and sockets opened in them."""

from __future__ import annotations

import os
import threading
from ipaddress import ip_interface
from pathlib import Path

import pytest

from percale.kernel.errors import apply_or_raise
from percale.kernel.netns import NetnsThread, anonymous_namespace, create_namespace, delete_namespace
from percale.kernel.protocol import Upsert
from percale.kernel.rtnl.driver import opened, opened_at
from percale.render.objects import Address, Link


def _inode(path: str) -> int:
    return Path(path).stat().st_ino


def test_a_namespace_is_pinned_at_a_path_until_it_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one"
    create_namespace(path)
    assert _inode(str(path)) != _inode("/proc/thread-self/ns/net")
    assert str(path) in Path("/proc/self/mountinfo").read_text()
    with pytest.raises(FileExistsError):
        create_namespace(path)
    with opened_at(path) as driver:
        apply_or_raise(driver, [Upsert(Link("lo")), Upsert(Address("lo", ip_interface("10.0.0.1/32")))])
    with opened_at(path) as driver:
        assert ("address", "lo", ip_interface("10.0.0.1/32")) in driver.read()
    delete_namespace(path)
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()
    delete_namespace(path)


def test_a_file_that_pins_nothing_is_deleted_too(tmp_path: Path) -> None:
    path = tmp_path / "stale"
    path.touch()
    delete_namespace(path)
    assert not path.exists()


def test_a_thread_is_inside_and_the_caller_is_not() -> None:
    outside = _inode("/proc/thread-self/ns/net")
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    assert thread.run(lambda: _inode("/proc/thread-self/ns/net")) == os.fstat(namespace).st_ino != outside
    assert _inode("/proc/thread-self/ns/net") == outside
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    thread.close()
    os.close(namespace)


def test_what_is_no_namespace_cannot_be_entered() -> None:
    before = threading.active_count()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="setns"):
        NetnsThread(descriptor)
    with pytest.raises(OSError, match="setns"), opened(descriptor):
        raise AssertionError
    os.close(descriptor)
    assert threading.active_count() == before


def test_a_driver_for_one_use_leaves_no_thread_and_no_descriptor() -> None:
    namespace = anonymous_namespace()
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with opened(namespace) as driver:
        apply_or_raise(driver, [Upsert(Link("lo"))])
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before
    os.close(namespace)
