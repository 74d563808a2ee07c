"""Our nft tables as values; tests/kernel/test_masquerade.py has them with packets."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest

from percale.render.network.base_chains import POD_DEVICE_PREFIX, network_tables
from percale.render.network.elements import Element
from percale.render.network.node_elements import node_elements
from percale.render.network.pod_veth import bridged_source_elements, source_elements
from percale.render.network.tunnels import TunnelEnd, tunnel_elements
from percale.render.nft.objects import TableSpec

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00::/48"))
OWN = (ip_network("10.244.1.0/24"), ip_network("fd00:0:0:1::/64"))
TABLES = network_tables(OWN)


def test_one_table_per_family() -> None:
    assert [str(table.name) for table in TABLES] == ["ip percale", "ip6 percale", "bridge percale"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_every_rule_and_set_says_what_it_is_for(table: TableSpec) -> None:
    chains = re.findall(r"chain \w+ \{\n(.*?)\n\}", table.text, re.DOTALL)
    rules = [line for chain in chains for line in chain.splitlines()[1:]]
    assert len(rules) >= 3
    assert all('comment "' in rule for rule in rules), rules
    told = re.findall(r'^set \w+ \{[^}]*comment "', table.text, re.MULTILINE)
    assert len(re.findall(r"^set ", table.text, re.MULTILINE)) == len(told)


def test_masquerading_is_elements_only() -> None:
    on, off = node_elements(NETWORKS, OWN, masquerade=True), node_elements(NETWORKS, OWN, masquerade=False)
    assert {each.set for each in off} == {"tunnels", "pods"}
    assert set(on) - set(off) == {
        Element("ip", "cluster", (NETWORKS[0],)),
        Element("ip6", "cluster", (NETWORKS[1],)),
        Element("ip", "localpods", (OWN[0],)),
        Element("ip6", "localpods", (OWN[1],)),
    }


def test_the_pod_network_and_its_tunnels_are_known_to_the_guards() -> None:
    tunnels = [TunnelEnd(ip_address(local), 8472) for local in ("192.168.1.1", "fd00:1::1")]
    assert set(node_elements(NETWORKS, OWN, tunnels, masquerade=False)) == {
        Element("ip", "tunnels", (8472,)),
        Element("ip6", "tunnels", (8472,)),
        Element("ip", "localtunnels", (8472,)),
        Element("ip", "tunnelendpoints", (ip_address("192.168.1.1"),)),
        Element("ip6", "localtunnels", (8472,)),
        Element("ip6", "tunnelendpoints", (ip_address("fd00:1::1"),)),
        Element("ip", "pods", (NETWORKS[0],)),
        Element("ip6", "pods", (NETWORKS[1],)),
    }


def test_a_node_without_tunnels_guards_those_of_others() -> None:
    assert set(tunnel_elements(())) == {Element(family, "tunnels", (8472,)) for family in ("ip", "ip6")}


def test_nothing_forwarded_gets_to_the_nodes_own_addresses_of_its_subnet() -> None:
    v4, v6, _ = (table.text for table in network_tables((ip_network("10.244.1.0/25"), OWN[1])))
    assert "ip daddr & 0.0.0.127 <= 0.0.0.1 " in v4
    assert "ip6 daddr & ::ffff:ffff:ffff:ffff <= ::1 " in v6


def test_flannels_exceptions_in_flannels_order() -> None:
    """Between them those of IP pools: there is nothing in that set without one."""
    chain = TABLES[0].text.partition("chain postrouting")[2]
    verdicts = re.findall(r"^    (?:meta|ip) (.*?) (return|goto masquerade-forwarded) comment", chain, re.M)
    assert verdicts == [
        ("mark & 0x4000 == 0x4000", "return"),
        ("saddr @localpods ip daddr @cluster", "return"),
        ("saddr @cluster ip daddr @localpods", "return"),
        ("saddr != @cluster ip daddr @localpods", "return"),
        ("saddr @routedpods ip daddr != @cluster", "return"),
        ("saddr @cluster ip daddr != 224.0.0.0/4", "goto masquerade-forwarded"),
        ("saddr != @cluster ip daddr @cluster", "goto masquerade-forwarded"),
    ]


def test_the_sources_of_a_pod() -> None:
    device = f"{POD_DEVICE_PREFIX}1"
    v4, v6 = ip_address("10.244.1.5"), ip_address("fd00:0:0:1::5")
    assert list(source_elements(device, (v4, v6))) == [
        Element("ip", "sources", (device, v4)),
        Element("ip", "quoted", (device, int(v4))),
        Element("ip6", "sources", (device, v6)),
        Element("ip6", "quoted", (device, int(v6))),
    ]
    assert list(bridged_source_elements(device, "02:00:00:00:00:0A", (v4, v6))) == [
        Element("bridge", "sources", (device, "02:00:00:00:00:0a", v4)),
        Element("bridge", "quoted", (device, int(v4))),
        Element("bridge", "sources6", (device, "02:00:00:00:00:0a", v6)),
        Element("bridge", "quoted6", (device, int(v6))),
        Element("bridge", "neighbours", (device, "02:00:00:00:00:0a", int(v6))),
        Element("bridge", "neighbours", (device, "02:00:00:00:00:0a", int(ip_address("fe80::ff:fe00:a")))),
    ]
    assert len(list(bridged_source_elements(device, "02:00:00:00:00:0a", (v4,)))) == 2
