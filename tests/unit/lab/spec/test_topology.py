"""A lab's machines: defaults, addresses, and what is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from percale.errors import BadManifest, LabError
from percale.lab.spec.topology import Host, LabNode, LabSpec, SegmentSpec, parse_port, topology


def test_default_topology_has_two_segments_and_a_host_outside() -> None:
    lab = topology(LabSpec())
    assert [(machine.name, machine.segment.name, str(machine.address)) for machine in lab.machines] == [
        ("node1", "a", "192.168.1.2/24"),
        ("node2", "a", "192.168.1.3/24"),
        ("node3", "b", "192.168.2.2/24"),
        ("outside", "world", "203.0.113.2/24"),
    ]
    assert [str(machine.address6) for machine in lab.nodes] == [
        "fd00:192:168:1::2/64",
        "fd00:192:168:1::3/64",
        "fd00:192:168:2::2/64",
    ]


def test_default_nodes_move_to_the_segments_that_a_document_names() -> None:
    lab = topology(LabSpec(segments=(SegmentSpec("lan", IPv4Network("10.9.0.0/24")),)))
    assert {machine.segment.name for machine in lab.nodes} == {"lan"}
    assert [machine.segment.name for machine in lab.hosts] == ["world"]


def test_an_address_that_is_asked_for_is_given_to_nobody_else() -> None:
    nodes = (LabNode("n1"), LabNode("n2", address=IPv4Address("192.168.1.2")))
    lab = topology(LabSpec(segments=(SegmentSpec("a"),), nodes=nodes))
    assert [str(machine.address.ip) for machine in lab.nodes] == ["192.168.1.3", "192.168.1.2"]


def test_a_host_with_a_foreign_address_stands_behind_a_router_of_its_own() -> None:
    lab = topology(LabSpec(hosts=(Host("dns", address=IPv4Address("8.8.8.8")),)))
    (host,) = lab.hosts
    assert str(host.address) == "8.8.8.8/24"
    assert str(host.segment.gateway) == "8.8.8.1/24"


def test_a_host_may_not_be_where_its_router_would_be() -> None:
    with pytest.raises(BadManifest, match=r"1\.1\.1\.1 is where its router would be"):
        topology(LabSpec(hosts=(Host("one", address=IPv4Address("1.1.1.1")),)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LabSpec(nodes=(LabNode("n1"), LabNode("n1"))), "two machines are named n1"),
        (LabSpec(nodes=(LabNode("n1"),), hosts=(Host("n1"),)), "two machines are named n1"),
        (LabSpec(nodes=(LabNode("Node_1"),)), "'Node_1' cannot name a machine"),
        (LabSpec(nodes=(LabNode("fabric"),)), "the router's own"),
        (LabSpec(segments=(SegmentSpec("a"), SegmentSpec("a"))), "two segments are named a"),
        (LabSpec(segments=()), "a lab needs a segment"),
        (LabSpec(segments=(SegmentSpec("a-very-long-name"),)), "at most 11"),
        (LabSpec(nodes=(LabNode("n1", segment="nowhere"),)), "no segment nowhere; there are a, b, world"),
        (
            LabSpec(
                nodes=(
                    LabNode("n1", address=IPv4Address("192.168.1.9")),
                    LabNode("n2", address=IPv4Address("192.168.1.9")),
                )
            ),
            "n2 and n1 both have 192.168.1.9",
        ),
        (LabSpec(nodes=(LabNode("n1", "a", address=IPv4Address("192.168.1.1")),)), "n1 and the router both have"),
        (LabSpec(nodes=(LabNode("n1", "a", address=IPv4Address("10.0.0.1")),)), "no address of its segment"),
        (LabSpec(nodes=(LabNode("n1", address=IPv4Address("10.0.0.1")),)), "10.0.0.1 is in no segment"),
        (
            LabSpec(
                segments=(SegmentSpec("a", IPv4Network("10.0.0.0/8")), SegmentSpec("b", IPv4Network("10.1.0.0/16")))
            ),
            "segments a and b overlap",
        ),
        (LabSpec(segments=(SegmentSpec("a", IPv4Network("10.0.0.0/31")),)), "no room for machines"),
        (LabSpec(segments=(SegmentSpec("a", mtu=100),)), "MTU of 100"),
        (
            LabSpec(segments=(SegmentSpec("a", IPv4Network("127.0.0.0/24")),)),
            "a: 127.0.0.0/24 is no network for machines",
        ),
        (
            LabSpec(segments=(SegmentSpec("a", cidr6=IPv6Network("fe80::/64")),)),
            "a: fe80::/64 is no network for machines",
        ),
        (LabSpec(nodes=(LabNode("n1", labels={"a": "b c"}),)), 'n1: labels: Invalid value: "b c"'),
        (LabSpec(hosts=(Host("h", ports=("99999",)),)), "'99999' is not a port"),
        (
            LabSpec(segments=(SegmentSpec("a", IPv4Network("10.0.0.0/30")),), nodes=(LabNode("n1"), LabNode("n2"))),
            "n2: 10.0.0.0/30 is full",
        ),
    ],
)
def test_refused(spec: LabSpec, message: str) -> None:
    with pytest.raises(BadManifest) as refusal:
        topology(spec)
    assert message in str(refusal.value)


def test_the_pod_network_may_not_be_a_segments() -> None:
    with pytest.raises(BadManifest, match=r"the pod network 192\.168\.0\.0/16 and segment a overlap"):
        topology(LabSpec(), [IPv4Network("192.168.0.0/16")])
    with pytest.raises(BadManifest, match="overlap"):
        topology(LabSpec(), [IPv6Network("fd00::/16")])


def test_a_node_added_later_gets_the_next_address_and_no_name_twice() -> None:
    lab = topology(LabSpec())
    more = lab.with_node(LabNode("node4", "b"))
    assert str(more.nodes[-1].address) == "192.168.2.3/24"
    assert more.without("node4") == lab
    with pytest.raises(LabError, match="there is a machine named node1 already"):
        lab.with_node(LabNode("node1"))
    for name in ("a b", "../x", "fabric", ""):
        with pytest.raises(LabError, match="add-node: "):
            lab.with_node(LabNode(name))


def test_hosts_that_stand_alone_have_segments_whose_names_differ() -> None:
    hosts = (
        Host("a", address=IPv4Address("8.8.8.8")),
        Host("far-far-away-1", address=IPv4Address("9.9.9.9")),
        Host("far-far-away-2", address=IPv4Address("9.9.8.9")),
    )
    names = [segment.name for segment in topology(LabSpec(hosts=hosts)).segments]
    assert names == ["a", "b", "world", "a-2", "far-far-awa", "far-far-2"]


def test_ports() -> None:
    assert parse_port("80", "x") == (80, "TCP")
    assert parse_port("53/udp", "x") == (53, "UDP")
    for wrong in ("", "http", "0", "80/ICMP", "-1"):
        with pytest.raises(BadManifest, match="is not a port"):
            parse_port(wrong, "x")
