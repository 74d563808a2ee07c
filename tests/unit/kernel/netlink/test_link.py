"""Devices as messages, there and back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from percale.kernel.netlink import link
from percale.render.link_kinds import Bridge, Veth, VethPeer, Vxlan
from percale.render.objects import Link

INDICES = {"eth0": 2, "cni0": 3}
NAMES = {index: name for name, index in INDICES.items()}


@pytest.mark.parametrize(
    "desired",
    [
        Link("flannel.1", Vxlan(1, ip_address("10.0.0.1"), "eth0"), mtu=1450, mac="02:00:00:00:00:01"),
        Link("v6", Vxlan(9, ip_address("fd00::1"), "eth0", 4789, True, True), True, 1430, "02:00:00:00:00:01"),
        Link("pod0", Veth(VethPeer("eth0", 3)), up=False, mtu=1400, mac="02:00:00:00:00:01", master="cni0"),
    ],
    ids=lambda desired: desired.name,
)
def test_devices_there_and_back(desired: Link) -> None:
    create, settle = link.create(desired, 77, INDICES.__getitem__)
    device = link.decode(create.body)
    decoded = link.as_link(device, NAMES.get)
    settled = link.decode(settle.body)
    assert (settled.index, settled.name, settled.alias) == (device.index, "", "percale")
    assert not link.needs_new_device(desired, decoded)
    assert (decoded.name, decoded.up, decoded.mtu, decoded.mac, decoded.master) == (
        desired.name,
        desired.up,
        desired.mtu,
        desired.mac,
        desired.master,
    )


def test_nothing_is_sent_for_a_device_that_is_right() -> None:
    actual = Link("cni0", Bridge(), True, 1500, "02:00:00:00:00:01")
    assert link.change(Link("cni0", Bridge()), actual, 3, INDICES.__getitem__) == []
    (request,) = link.change(Link("cni0", Bridge(), mtu=1400), actual, 3, INDICES.__getitem__)
    assert link.decode(request.body).mtu == 1400
