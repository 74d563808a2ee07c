"""Makes the backend for a network's configuration. Called at the start of the agent and of a lab, to fail early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from percale.backend.bgp.backend import BgpBackend
from percale.backend.host_gw import HostGw
from percale.backend.ipip import IpipBackend
from percale.backend.protocol import Backend
from percale.backend.udp.backend import UdpBackend
from percale.backend.vxlan import VxlanBackend
from percale.backend.wireguard.backend import WireguardBackend
from percale.errors import BadNetworkConfig
from percale.model.netconf import NetworkConfig

BACKENDS: dict[str, Callable[[Any], Backend]] = {
    "vxlan": VxlanBackend,
    "ipip": IpipBackend,
    "wireguard": WireguardBackend,
    "host-gw": lambda _options: HostGw(),
    "bgp": BgpBackend,
    "udp": UdpBackend,
}
"""By flannel's `Backend.Type`; each takes its options of `model/backend_options.py`."""


def make_backend(config: NetworkConfig, where: str = "") -> Backend:
    """Raises BadNetworkConfig for a backend of flannel's that is not here; `where` is the configuration's place."""
    make = BACKENDS.get(config.backend_type)
    if make is None:
        raise BadNetworkConfig(
            f'backend "{config.backend_type}" is not available',
            where=f"{where}: Backend.Type" if where else "Backend.Type",
            hint=f"use {' or '.join(BACKENDS)}",
        )
    return make(config.options)
