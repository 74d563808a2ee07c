"""The vxlan backend between real namespaces: packets arrive, and none of flannel's bugs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import DUAL, Fabric, Node, eventually, reaches

from percale.checks.sysctls import LOOSE
from percale.errors import KernelError
from percale.render.objects import Route

VXLAN = {**DUAL, "Backend": {"Type": "vxlan"}}
DIRECT = {**DUAL, "Backend": {"Type": "vxlan", "Directrouting": True}}


@pytest_asyncio.fixture
async def fabric(new_space: Callable[[], Space]) -> AsyncIterator[Fabric]:
    made = Fabric(new_space)
    yield made
    await made.down()


def route_to(node: Node, other: Node) -> str:
    return node.sh(f"ip route show {other.subnets.ipv4}").strip()


def fdb(node: Node, device: str = "flannel.1") -> dict[str, str]:
    """MAC to destination."""
    lines = node.sh(f"bridge fdb show dev {device}").splitlines()
    return {line.split()[0]: line.split()[2] for line in lines if " dst " in line}


def link(node: Node, device: str = "flannel.1") -> dict[str, Any]:
    (found,) = msgspec.json.decode(node.sh(f"ip -d -j link show {device}"))
    assert isinstance(found, dict)
    return found


async def test_pods_of_three_nodes_on_two_segments(fabric: Fabric) -> None:
    nodes = [await fabric.node(number, VXLAN, segment=segment) for number, segment in ((1, 1), (2, 1), (3, 2))]
    await fabric.meet(*nodes)
    for one in nodes:
        for other in nodes:
            if other is not one:
                await reaches(one, other)
    assert route_to(nodes[0], nodes[2]) == "10.244.3.0/24 via 10.244.3.0 dev flannel.1 proto 112 onlink"
    assert link(nodes[0])["mtu"] == 1450
    assert link(nodes[0], "flannel-v6.1")["mtu"] == 1430
    assert nodes[0].sh("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra") == "0\n"


async def test_strict_reverse_paths_lose_a_node_s_own_address_until_preflight_s_advice_is_typed(fabric: Fabric) -> None:
    """It goes by the tunnel, and the answer comes by the interface: strict filters drop both."""
    one, two = await fabric.node(1, VXLAN), await fabric.node(2, VXLAN)
    await fabric.meet(one, two)
    await reaches(one, two, 4)
    ping = f"ping -c1 -W1 -I 192.168.1.1 {two.pods[0].addresses[4]} >/dev/null"
    one.sh(ping)
    for each in (one, two):
        each.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    one.sh(f"! {ping}")
    await reaches(one, two, 4)
    for each in (one, two):
        each.sh(LOOSE)
    one.sh(ping)


async def test_a_tunnel_is_open_to_the_peers_of_now(fabric: Fabric) -> None:
    one, two = await fabric.node(1, VXLAN), await fabric.node(2, VXLAN)

    def peers() -> set[str]:
        text = one.sh("nft list set ip percale peers; nft list set ip6 percale peers")
        return set(re.findall(r"192\.168\.\d\.\d+|fd00:\d::\d+", text))

    await fabric.meet(one, two)
    assert peers() == {"192.168.1.2", "fd00:1::2"}
    two.move(2)
    await eventually(lambda: two.is_at("192.168.2.2", "fd00:2::2"))
    one.know(two.lease)
    await one.synced()
    assert peers() == {"192.168.2.2", "fd00:2::2"}
    one.know()
    await one.synced()
    assert peers() == set()


async def test_the_largest_packet_passes_and_the_next_does_not(fabric: Fabric) -> None:
    one, two = await fabric.node(1, VXLAN), await fabric.node(2, VXLAN, segment=2)
    await fabric.meet(one, two)
    await reaches(one, two)
    for version, headers, mtu in ((4, 28, 1450), (6, 48, 1430)):
        target = two.pods[0].addresses[version]
        for size, arrives in ((mtu, True), (mtu + 1, False)):
            answer = one.pods[0].space.run(
                "ping", "-n", "-c1", "-W1", "-M", "do", "-s", str(size - headers), target, check=False
            )
            assert (", 1 received" in answer) is arrives, (version, size)


async def test_a_node_itself_reaches_the_pods_of_others(fabric: Fabric) -> None:
    one, two = await fabric.pair(VXLAN)
    for version in (4, 6):
        target = two.pods[0].addresses[version]
        await eventually(partial(one.pings, target), target)


async def test_bug_a_deleted_device_comes_back_with_all_its_peers(fabric: Fabric) -> None:
    """flannel recreates the device, and loses the peers."""
    nodes = [await fabric.node(number, VXLAN) for number in (1, 2, 3)]
    await fabric.meet(*nodes)
    one, two, three = nodes
    before = fdb(one)
    assert len(before) == 2
    one.sh("ip link delete flannel.1; ip link delete flannel-v6.1")
    await eventually(lambda: "flannel.1" in one.sh("ip link") and fdb(one) == before, "the peers are back")
    await reaches(one, two)
    await reaches(one, three)


async def test_bug_a_changed_peer_mac_leaves_no_old_entry(fabric: Fabric) -> None:
    one, two = await fabric.pair(VXLAN)
    before = fdb(one)
    two.name = "n2-reborn"  # the MAC is the name's
    await fabric.meet(one, two)
    mac = link(two)["address"]
    assert fdb(one) == {mac: "192.168.1.2"}
    assert mac not in before
    assert f"10.244.2.0 lladdr {mac} PERMANENT" in one.sh("ip neigh show dev flannel.1")
    await reaches(one, two)


async def test_bug_peers_that_left_while_the_agent_was_down_are_collected(fabric: Fabric) -> None:
    """flannel never looks; and those that stayed must not lose a packet."""
    nodes = [await fabric.node(number, VXLAN) for number in (1, 2, 3)]
    await fabric.meet(*nodes)
    one, two, _ = nodes
    await reaches(one, two)
    index = link(one)["ifindex"]
    await one.stop()
    await one.start(VXLAN)
    one.know(two.lease)
    await one.reconciler.wait_idle()
    assert "10.244.3.0/24" in one.sh("ip route"), "before all sources have synced, nothing is deleted"
    await one.synced()
    assert "10.244.3.0" not in one.sh("ip route; ip neigh")
    assert "fd00:244:0:3:" not in one.sh("ip -6 route; ip -6 neigh")
    assert list(fdb(one).values()) == ["192.168.1.2"]
    assert list(fdb(one, "flannel-v6.1").values()) == ["fd00:1::2"]
    assert link(one)["ifindex"] == index
    await reaches(one, two)


async def test_bug_direct_routes_follow_a_node_from_segment_to_segment(fabric: Fabric) -> None:
    """flannel chooses between tunnel and direct route once."""
    one, two, three = [await fabric.node(n, DIRECT, segment=s) for n, s in ((1, 1), (2, 1), (3, 2))]
    nodes = (one, two, three)
    await fabric.meet(*nodes)
    assert route_to(one, two) == "10.244.2.0/24 via 192.168.1.2 dev eth0 proto 112"
    assert route_to(one, three) == "10.244.3.0/24 via 10.244.3.0 dev flannel.1 proto 112 onlink"
    await reaches(one, two)
    await reaches(one, three)
    two.move(2)
    await eventually(partial(two.is_at, "192.168.2.2", "fd00:2::2"))
    await fabric.meet(*nodes)
    assert route_to(one, two) == "10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 112 onlink"
    assert route_to(two, three) == "10.244.3.0/24 via 192.168.2.3 dev eth0 proto 112"
    await reaches(one, two)
    await reaches(two, three)
    two.move(1)
    await eventually(partial(two.is_at, "192.168.1.2", "fd00:1::2"))
    await fabric.meet(*nodes)
    assert route_to(one, two) == "10.244.2.0/24 via 192.168.1.2 dev eth0 proto 112"
    await reaches(one, two)
    await reaches(two, three)
    assert [dict(node.reconciler.problems) for node in nodes] == [{}, {}, {}]


async def test_bug_a_changed_mtu_is_applied_to_the_existing_device(fabric: Fabric) -> None:
    one, two = await fabric.pair(VXLAN)
    index = link(one)["ifindex"]
    one.sh("ip link set eth0 mtu 1400")
    await eventually(lambda: link(one)["mtu"] == 1350 and link(one, "flannel-v6.1")["mtu"] == 1330)
    assert link(one)["ifindex"] == index
    one.sh("ip link set eth0 mtu 1500")
    await eventually(lambda: link(one)["mtu"] == 1450)
    await reaches(one, two)


async def test_bug_changed_options_are_applied_at_the_next_start(fabric: Fabric) -> None:
    """MTU, Learning and Port: flannel keeps an existing device as it is."""
    one, two = await fabric.pair(VXLAN)
    changed = {**DUAL, "Backend": {"Type": "vxlan", "MTU": 1400, "Learning": True, "Port": 4789}}
    for node in (one, two):
        await node.stop()
        await node.start(changed)
    await fabric.meet(one, two)
    data = link(one)["linkinfo"]["info_data"]
    assert (link(one)["mtu"], data["learning"], data["port"]) == (1350, True, 4789)
    await reaches(one, two)


async def test_another_vni_takes_the_old_device_away(fabric: Fabric) -> None:
    one, two = await fabric.pair(VXLAN)
    for node in (one, two):
        await node.stop()
        await node.start({**DUAL, "Backend": {"Type": "vxlan", "VNI": 9}})
    await fabric.meet(one, two)
    assert sorted(re.findall(r"flannel[-.\w]*", one.sh("ip -br link"))) == ["flannel-v6.9", "flannel.9"]
    await reaches(one, two)


async def test_bug_one_refused_object_stalls_nothing(fabric: Fabric) -> None:
    """In flannel one failing netlink call can hold up the event loop for a minute."""
    one, two = await fabric.node(1, VXLAN), await fabric.node(2, VXLAN)
    one.reconciler.declare("peer/bad", [Route(ip_network("10.244.9.0/24"), "eth0", ip_address("203.0.113.1"))])
    with pytest.raises(KernelError, match="Nexthop has invalid gateway"):
        await one.reconciler.wait_applied("peer/bad")
    await asyncio.wait_for(fabric.meet(one, two), timeout=30)
    await reaches(one, two)
    assert one.problems == ["peer/bad"]


async def test_the_public_address_changes(fabric: Fabric) -> None:
    """The tunnel is recreated at the new address, and the peers with it."""
    one, two = await fabric.pair(VXLAN)
    one.sh(
        "ip addr flush dev eth0 scope global; ip addr add 192.168.1.101/24 dev eth0; ip addr add fd00:1::101/64 dev eth0 nodad; "
        "ip route replace default via 192.168.1.254; ip -6 route replace default via fd00:1::fe"
    )
    await eventually(partial(one.is_at, "192.168.1.101", "fd00:1::101"))
    await fabric.meet(one, two)
    assert link(one)["linkinfo"]["info_data"]["local"] == "192.168.1.101"
    await reaches(one, two)
    await reaches(two, one)


async def test_a_link_flap(fabric: Fabric) -> None:
    one, two = await fabric.pair(DIRECT)
    await reaches(one, two)
    one.sh("ip link set eth0 down")
    await eventually(lambda: route_to(one, two) == "", "the kernel takes routes with the link")
    one.sh("ip link set eth0 up; ip addr flush dev eth0 scope global")
    one.configure()
    await reaches(one, two)


async def test_the_interface_goes_and_comes_back(fabric: Fabric) -> None:
    """The tunnels go with it; they are back once it is, with all peers."""
    one, two = await fabric.pair(VXLAN)
    one.sh("ip link delete eth0")
    await eventually(lambda: "flannel" not in one.sh("ip link"))
    one.plug_in()
    await reaches(one, two)


async def test_bug_a_peer_with_one_family_works_in_that_family(fabric: Fabric) -> None:
    one = await fabric.node(1, VXLAN)
    two = await fabric.node(2, VXLAN, ipv6=False)
    await fabric.meet(one, two)
    assert two.lease.spec.publicIPv6 is None
    await reaches(one, two, 4)
    await reaches(two, one, 4)
    assert "flannel-v6.1" not in two.sh("ip link")


@pytest.mark.parametrize("document", [VXLAN, DIRECT], ids=["tunnel", "direct"])
async def test_deleted_entries_come_back(fabric: Fabric, document: dict[str, Any]) -> None:
    one, two = await fabric.pair(document)
    one.sh("ip route flush proto 112; ip -6 route flush proto 112")
    if document is VXLAN:
        one.sh("ip neigh flush dev flannel.1 nud permanent")
        one.sh(f"bridge fdb del {next(iter(fdb(one)))} dev flannel.1 dst 192.168.1.2")
    await reaches(one, two)
    await reaches(two, one)
