"""Which backends there are."""

from __future__ import annotations

from percale.backend.host_gw import HostGw
from percale.backend.registry import BACKENDS, make_backend
from percale.backend.vxlan import VxlanBackend
from percale.model.backend_options import OPTIONS
from percale.model.netconf import network_config


def test_the_backends_that_are_here() -> None:
    assert isinstance(make_backend(network_config({"Network": "10.0.0.0/16"})), VxlanBackend)
    host_gw = network_config({"Network": "10.0.0.0/16", "Backend": {"Type": "HOST-GW"}})
    assert isinstance(make_backend(host_gw), HostGw)


def test_there_is_one_for_all_options() -> None:
    assert BACKENDS.keys() == OPTIONS.keys()
