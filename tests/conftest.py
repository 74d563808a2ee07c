"""Every test run happens in namespaces of its own, so that no test can touch or leave anything on this machine.

Each test process, one a worker, moves into a new network and mount namespace before the first test (and, when it is
not root, into a new user namespace first), with an empty /run/netns of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.cluster import api_server
from tests.etcd_server import EtcdServer, etcd_server

from percale.kernel import syscalls

pytest_plugins = ["tests.vm.plugin"]

# How many examples a property test takes: in `make test`, `make check` and `make fuzz`.
settings.register_profile("usual", max_examples=100, deadline=None)
settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("fuzz", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("usual")


def pytest_configure() -> None:
    if os.geteuid() != 0:
        syscalls.become_root_of_new_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs")
    Path("/run/netns").mkdir()


@pytest.fixture(scope="session")
def loopback() -> None:
    """127.0.0.1 of the tests' namespace, for servers of tests."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.fixture(scope="session")
def kube_apiserver(loopback: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[api_server.KubeApiServer]:
    """One for all tests that need no more than its address."""
    with api_server.running(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server


@pytest.fixture(scope="session")
def etcd(loopback: None) -> Iterator[EtcdServer]:
    """One for all tests that need no more than a prefix of their own."""
    with etcd_server() as server:
        yield server
