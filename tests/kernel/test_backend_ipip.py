"""The ipip backend between real namespaces, in the VM: most kernels of containers have no ipip."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_address

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import Fabric, eventually, reaches

from percale.render.network.tunnels import peer_element

pytestmark = pytest.mark.vm

NETWORK = {"Network": "10.244.0.0/16"}
IPIP = {**NETWORK, "Backend": {"Type": "ipip"}}
DIRECT = {**NETWORK, "Backend": {"Type": "ipip", "DirectRouting": True}}


@pytest_asyncio.fixture
async def fabric(new_space: Callable[[], Space]) -> AsyncIterator[Fabric]:
    made = Fabric(new_space)
    yield made
    await made.down()


async def test_pods_on_two_segments_to_the_last_byte_and_after_the_device_was_deleted(fabric: Fabric) -> None:
    one, two = await fabric.node(1, IPIP), await fabric.node(2, IPIP, segment=2)
    await fabric.meet(one, two)
    await reaches(one, two, 4)
    await eventually(partial(one.pings, two.pods[0].addresses[4]), "a node's own packets")
    assert one.sh("ip route show 10.244.2.0/24").split() == (
        ["10.244.2.0/24", "via", "192.168.2.2", "dev", "flannel.ipip", "proto", "112", "onlink"]
    )
    words = one.sh("ip -d link show flannel.ipip")
    assert "mtu 1480" in words
    assert "ipip remote any local 192.168.1.1 ttl inherit pmtudisc" in words
    for size, arrives in ((1480, True), (1481, False)):
        command = ("ping", "-n", "-c1", "-W2", "-M", "do", "-s", str(size - 28), two.pods[0].addresses[4])
        assert (", 1 received" in one.pods[0].space.run(*command, check=False)) is arrives, size
    one.sh("ip link delete flannel.ipip")
    await reaches(one, two, 4)
    assert dict(one.reconciler.problems) == {}


async def test_direct_routes_on_one_segment_and_the_tunnel_beyond_it(fabric: Fabric) -> None:
    nodes = [await fabric.node(number, DIRECT, segment=segment) for number, segment in ((1, 1), (2, 1), (3, 2))]
    await fabric.meet(*nodes)
    one, two, three = nodes
    await reaches(one, two, 4)
    await reaches(one, three, 4)
    assert "via 192.168.1.2 dev eth0" in one.sh("ip route show 10.244.2.0/24")
    assert "via 192.168.2.3 dev flannel.ipip" in one.sh("ip route show 10.244.3.0/24")


async def test_only_peers_get_into_the_tunnel(fabric: Fabric) -> None:
    """Neither a pod's packet, inside another one, nor that of a machine that is no node; once it is a peer, it does."""
    one, two = await fabric.pair(IPIP)
    await reaches(one, two, 4)
    stranger = fabric.machine(9, 1)
    pod, victim = one.pods[0], two.pods[0].addresses[4]
    for sender, source, target in ((stranger, "192.168.1.9", "192.168.1.2"), (pod, pod.addresses[4], "192.168.1.2")):
        sender.sh(
            f"ip link add out type ipip local {source} remote {target}; ip link set out up; "
            f"ip addr add 10.244.1.99/32 dev out; ip route replace {victim} dev out"
        )
        before = _arrived(two.pods[0].space)
        sender.sh(f"ping -n -c3 -i0.2 -W1 -I 10.244.1.99 {victim} >/dev/null || true")
        assert _arrived(two.pods[0].space) == before
        if sender is stranger:
            two.tables.declare("peer/stranger", [peer_element(ip_address(source))])
            await two.tables.wait_applied("peer/stranger")
            sender.sh(f"ping -n -c3 -i0.2 -W1 -I 10.244.1.99 {victim} >/dev/null || true")
            assert _arrived(two.pods[0].space) > before
        sender.sh("ip link delete out")
    await reaches(one, two, 4)


def _arrived(space: Space) -> int:
    """Echo requests that this pod has received."""
    header, values = (line.split() for line in space.shell("grep ^Icmp: /proc/net/snmp").splitlines())
    return int(values[header.index("InEchos")])
