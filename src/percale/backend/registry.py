"""Makes the backend for a network's configuration. Called at the start of the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from percale.backend.alloc import AllocBackend
from percale.backend.extension.backend import ExtensionBackend
from percale.backend.host_gw import HostGw
from percale.backend.ipip import IpipBackend
from percale.backend.protocol import Backend
from percale.backend.transition import Transition
from percale.backend.udp.backend import UdpBackend
from percale.backend.vxlan import VxlanBackend
from percale.backend.wireguard.backend import WireguardBackend
from percale.model.netconf import NetworkConfig


def _bgp(options: Any) -> Backend:
    from percale.backend.bgp.backend import BgpBackend  # noqa: PLC0415 -- most networks have another

    return BgpBackend(options)


BACKENDS: dict[str, Callable[[Any], Backend]] = {
    "vxlan": VxlanBackend,
    "ipip": IpipBackend,
    "wireguard": WireguardBackend,
    "host-gw": lambda _options: HostGw(),
    "bgp": _bgp,
    "udp": UdpBackend,
    "alloc": lambda _options: AllocBackend(),
    "extension": ExtensionBackend,
}
"""By flannel's `Backend.Type`; each takes its options of `model/backend_options.py`, which has the same names."""


def make_backend(config: NetworkConfig) -> Backend:
    """For the backend's type and options, which are valid already; with a previous one for both."""
    made = BACKENDS[config.backend_type](config.options)
    if config.previous is None:
        return made
    return Transition(BACKENDS[config.previous.type](config.previous.options), made)
