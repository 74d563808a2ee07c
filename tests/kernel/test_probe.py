"""A probe of a lab, between namespaces: what ends a connection attempt, and who said so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from tests.kernel.conftest import Space
from tests.waiting import until

from percale.lab.api.probe import Outcome, probe


@pytest.mark.parametrize("patience", [30.0, 0.0], ids=["in time", "when the loop was held up until the end"])
def test_an_icmp_error_tells_what_ended_the_attempt(new_space: Callable[[], Space], patience: float) -> None:
    client, router = new_space(), new_space()
    client.shell(f"ip link add eth0 type veth peer name eth0 netns {router.path}; ip addr add 192.168.7.2/24 dev eth0")
    router.shell("ip addr add 192.168.7.1/24 dev eth0; ip link set eth0 up; sysctl -qw net.ipv4.ip_forward=1")
    client.shell("ip link set eth0 up; ip route add default via 192.168.7.1; ping -qc1 -w20 192.168.7.1")

    def unreachable() -> Outcome | None:
        outcome = asyncio.run(probe(client.path, ip_address("9.9.9.9"), 80, "TCP", patience))
        return outcome if outcome.result == "unreachable" else None

    outcome = until(unreachable)
    assert (outcome.reason, str(outcome.sender)) == ("Network is unreachable", "192.168.7.1")
