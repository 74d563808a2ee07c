"""The host-gw backend between real namespaces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.kernel.conftest import Space
from tests.kernel.nodes import DUAL, Fabric, eventually, reaches

from percale.backend.host_gw import HostGw
from percale.errors import KernelError
from percale.render.objects import Route

HOST_GW = {**DUAL, "Backend": {"Type": "host-gw"}}


@pytest_asyncio.fixture
async def fabric(new_space: Callable[[], Space]) -> AsyncIterator[Fabric]:
    made = Fabric(new_space)
    yield made
    await made.down()


async def test_pods_of_two_nodes(fabric: Fabric) -> None:
    one, two = await fabric.pair(HOST_GW)
    await reaches(one, two)
    await reaches(two, one)
    assert one.sh("ip route show proto 112").strip() == "10.244.2.0/24 via 192.168.1.2 dev eth0"
    assert one.sh("ip -6 route show proto 112").split()[:5] == ["fd00:244:0:2::/64", "via", "fd00:1::2", "dev", "eth0"]


async def test_a_peer_behind_a_router_is_skipped_and_the_others_work(fabric: Fabric) -> None:
    one, two = await fabric.node(1, HOST_GW), await fabric.node(2, HOST_GW)
    three = await fabric.node(3, HOST_GW, segment=2)
    await fabric.meet(one, two, three)
    await reaches(one, two)
    assert "10.244.3.0" not in one.sh("ip route")
    assert "192.168.2.3 and fd00:2::3 is behind a gateway" in (HostGw().peer(one.local, three.lease).problem or "")
    assert one.problems == []


async def test_bug_missing_routes_come_back_and_extra_ones_go(fabric: Fabric) -> None:
    """flannel adds missing ones every 10 s, and never removes any."""
    one, _ = await fabric.pair(HOST_GW)
    one.sh("ip route delete 10.244.2.0/24; ip route add 10.244.99.0/24 via 192.168.1.2 proto 112")
    one.sh("ip route add 10.77.0.0/16 via 192.168.1.2")
    await eventually(lambda: "10.244.2.0/24" in one.sh("ip route") and "10.244.99.0/24" not in one.sh("ip route"))
    assert "10.77.0.0/16" in one.sh("ip route"), "routes of others stay"


async def test_bug_one_refused_route_stalls_nothing(fabric: Fabric) -> None:
    one, two, three = [await fabric.node(n, HOST_GW, segment=s) for n, s in ((1, 1), (2, 1), (3, 2))]
    await fabric.meet(one, two)
    everywhere = replace(one.local, on_link=frozenset({ip_network("0.0.0.0/0")}))
    one.reconciler.declare("peer/n3", HostGw().peer(everywhere, three.lease).objects[:1])
    with pytest.raises(KernelError):
        await one.reconciler.wait_applied("peer/n3")
    assert one.problems == ["peer/n3"]
    one.reconciler.declare("peer/n4", [Route(ip_network("10.244.4.0/24"), "eth0", two.local.public_ips[0])])
    await one.reconciler.wait_applied("peer/n4")
    await reaches(one, two)


async def test_from_vxlan_to_host_gw_and_back(fabric: Fabric) -> None:
    """Nothing of the other backend is left, and packets flow either way."""
    vxlan = {**DUAL, "Backend": {"Type": "vxlan"}}
    one, two = await fabric.pair(vxlan)
    for document, devices in ((HOST_GW, 0), (vxlan, 2)):
        for node in (one, two):
            await node.stop()
            await node.start(document)
        await fabric.meet(one, two)
        await reaches(one, two)
        assert one.sh("ip -br link").count("flannel") == devices
        device = "flannel-v6.1" if devices else "eth0"
        assert f"dev {device} proto 112" in one.sh(f"ip -6 route show {two.subnets.ipv6}")
        assert dict(one.reconciler.problems) == {}
