"""The VM of the tests has the kernel that they need."""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Space
from tests.vm.machine import in_vm

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("kind", ["ipip remote 192.0.2.2 local 192.0.2.1", "wireguard", "dummy"])
def test_devices_of_kinds_that_kernels_here_lack(kind: str, space: Space) -> None:
    assert in_vm()
    space.shell(f"ip link add probe type {kind}; ip link set probe up")
