"""Echo requests to real kernels."""

from __future__ import annotations

import select
import subprocess
import time
from ipaddress import ip_address

import pytest

from percale.kernel.icmp_echo import EchoSocket


@pytest.fixture(autouse=True)
def loopback() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_replies_have_the_sequence_numbers_of_the_requests(address: str) -> None:
    target = ip_address(address)
    echo, other = EchoSocket(target.version), EchoSocket(target.version)
    try:
        for sequence in (0, 7, 65535):
            echo.send(target, sequence)
        echo.send(ip_address("192.0.2.1" if target.version == 4 else "2001:db8::1"), 9)
        found: list[int] = []
        deadline = time.monotonic() + 5
        while len(found) < 3 and time.monotonic() < deadline:
            found += echo.replies()
        assert found == [0, 7, 65535]
        assert select.select([other], [], [], 0) == ([], [], []), "it is not even woken"
    finally:
        echo.close()
        other.close()
