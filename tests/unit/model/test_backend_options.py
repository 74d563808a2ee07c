"""What follows from a backend's options for all nodes alike."""

from __future__ import annotations

from typing import Any

import pytest

from percale.model.backend_options import guarded_ports
from percale.model.netconf import network_config


@pytest.mark.parametrize(
    ("backend", "ports", "has_device", "uses_underlay_routes"),
    [
        ({"Type": "vxlan"}, (8472,), True, False),
        ({"Type": "vxlan", "Port": 4789, "DirectRouting": True}, (4789,), True, True),
        ({"Type": "host-gw"}, (), False, True),
        ({"Type": "udp"}, (8285,), True, False),
        ({"Type": "ipip"}, (), True, False),
        ({"Type": "ipip", "DirectRouting": True}, (), True, True),
        ({"Type": "wireguard"}, (51820, 51821), True, False),
        ({"Type": "wireguard", "Mode": "auto"}, (51820,), True, False),
    ],
    ids=str,
)
def test_tunnels_and_routes(
    backend: dict[str, Any], ports: tuple[int, ...], has_device: bool, uses_underlay_routes: bool
) -> None:
    options = network_config({"Network": "10.244.0.0/16", "Backend": backend}).options
    assert (options.tunnel_ports, options.has_device) == (ports, has_device)
    assert options.uses_underlay_routes == uses_underlay_routes


def test_without_a_tunnel_the_usual_port_is_guarded() -> None:
    assert guarded_ports(()) == (8472,)
    assert guarded_ports([51821, 51820, 51820]) == (51820, 51821)
