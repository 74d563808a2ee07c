"""The wireguard backend between real namespaces, in the VM: most kernels of containers have no wireguard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import DUAL, Fabric, Node, eventually, reaches

pytestmark = pytest.mark.vm

WIREGUARD = {**DUAL, "Backend": {"Type": "wireguard"}}


@pytest_asyncio.fixture
async def fabric(new_space: Callable[[], Space]) -> AsyncIterator[Fabric]:
    made = Fabric(new_space)
    yield made
    await made.down()


def with_options(**options: Any) -> dict[str, Any]:
    return {**DUAL, "Backend": {"Type": "wireguard", **options}}


def peers(node: Node, device: str = "flannel-wg") -> dict[str, tuple[str, set[str]]]:
    """Endpoint and allowed networks by public key."""
    lines = [line.split("\t") for line in node.sh(f"wg show {device} dump").splitlines()[1:]]
    return {fields[0]: (fields[2], set(fields[3].split(","))) for fields in lines}


async def test_pods_on_two_segments_to_the_last_byte_and_after_the_device_was_deleted(fabric: Fabric) -> None:
    one, two = await fabric.node(1, WIREGUARD), await fabric.node(2, WIREGUARD, segment=2)
    await fabric.meet(one, two)
    await reaches(one, two)
    await reaches(two, one)
    ((key, found),) = peers(one).items()
    assert found == ("192.168.2.2:51820", {"10.244.2.0/24", "192.168.2.2/32"})
    assert peers(one, "flannel-wg-v6") == {key: ("[fd00:2::2]:51821", {"fd00:244:0:2::/64", "fd00:2::2/128"})}
    assert key == two.sh("wg show flannel-wg public-key").strip()
    assert one.sh("ip route show 10.244.2.0/24").strip() == "10.244.2.0/24 dev flannel-wg proto 112 scope link"
    for device in ("flannel-wg", "flannel-wg-v6"):
        assert "mtu 1420" in one.sh(f"ip link show {device}")
    for source, version in (("10.244.1.0", 4), ("192.168.1.1", 4), ("fd00:1::1", 6)):
        one.sh(f"ping -n -c1 -W2 -I {source} {two.pods[0].addresses[version]} >/dev/null")
    for version, headers in ((4, 28), (6, 48)):
        for size, arrives in ((1420, True), (1421, False)):
            target = two.pods[0].addresses[version]
            command = ("ping", "-n", "-c1", "-W2", "-M", "do", "-s", str(size - headers), target)
            assert (", 1 received" in one.pods[0].space.run(*command, check=False)) is arrives, size
    one.sh("ip link delete flannel-wg; ip link delete flannel-wg-v6")
    await reaches(one, two)
    assert dict(one.reconciler.problems) == {}


async def test_beside_vxlan_each_node_is_sent_to_as_its_lease_says(fabric: Fabric) -> None:
    one, two = await fabric.pair({**WIREGUARD, "PreviousBackend": {"Type": "vxlan"}})
    await reaches(one, two)
    two.take_new_backend()
    one.know(two.lease)
    await one.synced()
    assert "dev flannel-wg" in one.sh("ip route show 10.244.2.0/24")
    assert "dev flannel.1" in two.sh("ip route show 10.244.1.0/24")
    await reaches(one, two)
    await reaches(two, one)
    assert dict(one.reconciler.problems) == dict(two.reconciler.problems) == {}


@pytest.mark.parametrize(
    ("mode", "endpoint"), [("auto", "192.168.1.2:51820"), ("ipv4", "192.168.1.2:51820"), ("ipv6", "[fd00:1::2]:51820")]
)
async def test_one_device_for_both_families(fabric: Fabric, mode: str, endpoint: str) -> None:
    one, two = await fabric.pair(with_options(Mode=mode, PSK="A" * 42 + "E=", PersistentKeepaliveInterval=25))
    await reaches(one, two)
    await reaches(two, one)
    ((found, allowed),) = peers(one).values()
    assert found == endpoint
    assert {"10.244.2.0/24", "fd00:244:0:2::/64"} < allowed
    assert "flannel-wg-v6" not in one.sh("ip link")
    assert "persistent keepalive: every 25 seconds" in one.sh("wg show flannel-wg")
    assert "preshared key: (hidden)" in one.sh("wg show flannel-wg")


async def test_a_restart_loses_no_packet_and_peers_that_left_meanwhile_go_after_all_have_synced(fabric: Fabric) -> None:
    nodes = [await fabric.node(number, WIREGUARD) for number in (1, 2, 3)]
    await fabric.meet(*nodes)
    one, two, three = nodes
    await reaches(one, two)
    await reaches(one, three)
    before = one.sh("wg show flannel-wg dump; ip link show flannel-wg").splitlines()[0]
    pinging = asyncio.create_task(asyncio.to_thread(stream, one, two, 300))
    await asyncio.sleep(0.5)
    await one.stop()
    await one.start(WIREGUARD)
    one.know(two.lease)
    await one.reconciler.wait_idle()
    assert len(peers(one)) == 2, "before all sources have synced, nothing is deleted"
    await one.synced()
    assert len(peers(one)) == len(peers(one, "flannel-wg-v6")) == 1
    assert await pinging == 300
    assert one.sh("wg show flannel-wg dump; ip link show flannel-wg").splitlines()[0] == before


def stream(one: Node, two: Node, count: int) -> int:
    """How many of so many pings, one each 10 ms, were answered."""
    output = one.pods[0].space.run(
        "ping", "-n", "-q", "-i", "0.01", "-c", str(count), two.pods[0].addresses[4], check=False
    )
    words = next(line for line in output.splitlines() if "transmitted" in line).split()
    assert int(words[0]) == count
    return int(words[3])


async def test_bug_a_peer_with_a_new_key_replaces_the_old_one_at_once(fabric: Fabric) -> None:
    """flannel kept the old key (k3s#5216). A handshake that is lost would be tried again after five seconds only."""
    one, two = await fabric.pair(WIREGUARD)
    await reaches(one, two)
    (before,) = peers(one)
    pinging = asyncio.create_task(asyncio.to_thread(stream, one, two, 600))
    await asyncio.sleep(1)
    await two.renew_key()
    await fabric.meet(one, two)
    (after,) = peers(one)
    assert before != after == two.sh("wg show flannel-wg public-key").strip()
    assert await pinging > 500
    await reaches(two, one)


async def test_what_others_remove_or_change_comes_back(fabric: Fabric) -> None:
    one, two = await fabric.pair(WIREGUARD)
    await reaches(one, two)
    before, key = peers(one), next(iter(peers(one)))
    stranger = one.sh("wg genkey | wg pubkey").strip()
    for line in (
        f"wg set flannel-wg peer {key} remove",
        f"wg set flannel-wg peer {key} endpoint 203.0.113.1:9 persistent-keepalive 9",
        f"wg set flannel-wg peer {stranger} allowed-ips 10.244.2.0/24",
        "wg set flannel-wg listen-port 9999 fwmark 7",
        "wg genkey >/tmp/other.key; wg set flannel-wg private-key /tmp/other.key; rm /tmp/other.key",
    ):
        was = one.sh("wg show flannel-wg private-key; wg show flannel-wg listen-port; wg show flannel-wg fwmark")
        one.sh(line)

        def restored(was: str = was) -> bool:
            now = one.sh("wg show flannel-wg private-key; wg show flannel-wg listen-port; wg show flannel-wg fwmark")
            return now == was and peers(one) == before

        await eventually(restored, line)
        await reaches(one, two, 4)
    assert dict(one.reconciler.problems) == {}


async def test_a_peer_sends_from_its_own_addresses_only_and_others_not_at_all(fabric: Fabric) -> None:
    nodes = [await fabric.node(number, WIREGUARD) for number in (1, 2, 3)]
    await fabric.meet(*nodes)
    one, two, three = nodes
    await reaches(two, one)
    two.sh("ip addr add 10.244.3.99/32 dev lo; ip addr add 10.9.9.9/32 dev lo")
    target = one.pods[0].addresses[4]
    for source in ("10.244.3.99", "10.9.9.9"):
        two.sh(f"! ping -n -c2 -i0.2 -W1 -I {source} {target} >/dev/null")
    one.know(three.lease)
    await one.synced()
    assert not two.pods[0].pings(target), "no peer any more"
    await one.stop()
    await one.start(with_options(PSK="A" * 42 + "E="))
    one.know(two.lease, three.lease)
    await one.synced()
    assert not two.pods[0].pings(target), "it has no preshared key"
