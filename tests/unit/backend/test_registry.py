"""Which backends there are."""

from __future__ import annotations

import pytest

from percale.backend.host_gw import HostGw
from percale.backend.registry import make_backend
from percale.backend.vxlan import VxlanBackend
from percale.errors import BadNetworkConfig
from percale.model.netconf import network_config


def test_the_backends_that_are_here() -> None:
    assert isinstance(make_backend(network_config({"Network": "10.0.0.0/16"})), VxlanBackend)
    host_gw = network_config({"Network": "10.0.0.0/16", "Backend": {"Type": "HOST-GW"}})
    assert isinstance(make_backend(host_gw), HostGw)


@pytest.mark.parametrize("name", ["alloc", "extension"])
def test_flannels_other_backends_are_named(name: str) -> None:
    config = network_config({"Network": "10.0.0.0/16", "Backend": {"Type": name}})
    with pytest.raises(BadNetworkConfig) as caught:
        make_backend(config)
    assert (
        str(caught.value)
        == f'Backend.Type: backend "{name}" is not available; use vxlan or ipip or wireguard or host-gw or bgp or udp'
    )
