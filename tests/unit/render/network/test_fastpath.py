"""What the shortcut's table says for a node; that it works is tests/kernel/agent/test_agent_shortcut.py's."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest

from percale.render.network.fastpath import SETS, FastpathConfig, FastpathPod, FastpathRoute, text

PODS = (
    FastpathPod("pcl1", (ip_address("10.244.1.2"), ip_address("fd00::1:2"))),
    FastpathPod("pcl2", (ip_address("10.244.1.3"),)),
)
ROUTES = (
    FastpathRoute(ip_network("10.244.2.0/24"), ip_address("10.244.2.0"), "flannel.1"),
    FastpathRoute(ip_network("10.244.3.0/24"), ip_address("192.168.0.3"), "eth0"),
    FastpathRoute(ip_network("fd00::2:0/112"), ip_address("fd00::2:0"), "eth0"),
)
TEXT = text(FastpathConfig(PODS, ROUTES, 1430))


def chain(name: str) -> list[str]:
    (body,) = re.findall(rf"chain {re.escape(name)} {{\n(.*?)\n}}", TEXT, re.DOTALL)
    return [line.strip() for line in body.splitlines()]


def test_a_pods_device_knows_its_own_addresses_only() -> None:
    assert chain("in-pcl1")[1:] == [
        '@ll,96,16 0x0800 @nh,96,32 0xaf40102 goto from-pod4 comment "10.244.1.2"',
        '@ll,96,16 0x86dd @nh,64,128 0xfd000000000000000000000000010002 goto from-pod6 comment "fd00::1:2"',
    ]
    assert chain("in-pcl2")[1:] == ['@ll,96,16 0x0800 @nh,96,32 0xaf40103 goto from-pod4 comment "10.244.1.3"']


def test_each_way_has_a_device_and_what_is_no_way_is_at_home() -> None:
    assert (
        "map via4-flannel.1 { typeof ip daddr : ip daddr; flags interval; elements = { 10.244.2.0/24 : 10.244.2.0 }; }"
        in TEXT
    )
    assert 'map home4 { typeof ip daddr : meta oif; elements = { 10.244.1.2 : "pcl1", 10.244.1.3 : "pcl2" }; }' in TEXT
    assert [rule.partition(" device ")[2] for rule in chain("away4")] == [
        '"flannel.1"',
        '"eth0"',
        "ip daddr map @home4",
    ]


def test_from_another_node_one_gets_home_only() -> None:
    for version in (4, 6):
        assert not [rule for rule in chain(f"from-node{version}") if "away" in rule or "via" in rule]


@pytest.mark.parametrize("name", ["from-node4", "from-node6", "from-pod4", "from-pod6"])
def test_a_known_packet_is_asked_by_raw_loads_first(name: str) -> None:
    """A match that names a header costs a test of the packet's kind before it."""
    assert all(rule.startswith("@nh,") for rule in chain(name))


def test_every_set_of_flows_can_be_emptied_by_its_name() -> None:
    assert set(re.findall(r"^set (\w+) ", TEXT, re.MULTILINE)) == set(SETS)


def test_a_node_without_pods_and_peers_has_a_table_without_hooks() -> None:
    assert "hook" not in text(FastpathConfig((), (), 1500))
