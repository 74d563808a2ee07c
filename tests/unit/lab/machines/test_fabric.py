"""What is typed to make the lab's cables and cuts."""

from __future__ import annotations

from percale.lab.machines.fabric import cable_lines, cut_rules, machine_lines, port, router_lines
from percale.lab.spec.topology import LabNode, LabSpec, SegmentSpec, topology

LAB = topology(LabSpec(segments=(SegmentSpec("a", mtu=9000), SegmentSpec("b"))))
NODE1, _, NODE3 = LAB.nodes


def test_the_router_has_a_bridge_with_the_gateway_per_segment() -> None:
    lines = router_lines(LAB.segments)
    assert "link add br-a address 02:00:c0:a8:01:01 mtu 9000 type bridge forward_delay 0 mcast_snooping 0" in lines
    assert "address add 192.168.2.1/24 dev br-b" in lines


def test_a_machine_has_its_address_and_the_way_out() -> None:
    assert cable_lines(NODE1)[0] == (
        "link add name node1 mtu 9000 type veth peer name eth0 address 02:00:c0:a8:01:02 mtu 9000 netns /run/netns/node1"
    )
    assert "route add default via 192.168.2.1" in machine_lines(NODE3)


def test_long_names_are_shortened_to_device_names_that_differ() -> None:
    names = {port(f"a-node-with-a-very-long-name-{number}") for number in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 15 for name in names)
    assert port("node1") == "node1"


def test_a_machine_is_never_taken_for_a_device_of_the_router_or_for_a_word_of_ip() -> None:
    names = [port(name) for name in ("lo", "all", "default", "br-a")]
    assert not {"lo", "all", "default", "br-a"} & set(names)
    assert len(set(names)) == 4
    (machine,) = topology(LabSpec(nodes=(LabNode("type"),), hosts=())).machines
    assert [line.split(" mtu")[0].split(" type veth")[0].split(" master")[0] for line in cable_lines(machine)] == [
        "link add name type",
        "link set dev type",
    ]


def test_a_cut_drops_what_goes_from_cable_to_cable_in_both_directions() -> None:
    text = cut_rules([frozenset({"node1", "node3"}), frozenset({"node2", "node1"})])
    assert 'iifname map { "node1" : 1, "node2" : 2, "node3" : 3 }' in text
    assert 'elements = { 1 . "node2", 2 . "node1", 1 . "node3", 3 . "node1" }' in text
    assert "elements" not in cut_rules([])
