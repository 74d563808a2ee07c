"""The network under the tunnels moves: addresses, interfaces, default routes, links. The node follows."""

from __future__ import annotations

import pytest
from tests.kernel.agent.cluster import DUAL, Cluster, Node, Pod, sh
from tests.waiting import until


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Node, Node, Pod, Pod]:
    a, b = cluster.two_pods()
    return a.node, b.node, a, b


def test_an_address_that_changes_moves_the_tunnel(pair: tuple[Node, Node, Pod, Pod]) -> None:
    one, two, a, b = pair
    two.ip("address", "del", "192.168.0.2/24", "dev", "eth0")
    two.ip("address", "add", "192.168.0.22/24", "dev", "eth0")
    two.ip("route", "replace", "default", "via", "192.168.0.254")
    until(lambda: two.status.publicIPs == ("192.168.0.22",))
    until(lambda: one.status.peers[0].publicIPs == ("192.168.0.22",))
    until(lambda: a.reaches(b.addresses[0]))
    fdb = one.sh("bridge", "fdb", "show", "dev", "flannel.1")
    assert fdb.count("dst 192.168.0.22") == 1
    assert "dst 192.168.0.2 " not in fdb
    assert one.subnet == "10.244.1.0/24"


def test_addresses_that_are_added_move_no_node(cluster: Cluster) -> None:
    """Whoever is on the network can add an IPv6 address, by a router advertisement."""
    cluster.network = DUAL
    one = cluster.node(1, ipv6=True).start()
    for address in ("192.168.0.99/24", "10.99.0.1/32", "fd00::99/64", "fd99::1/64"):
        one.ip("address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
    one.ip("address", "add", "172.31.0.1/24", "dev", "eth0", "scope", "link")
    one.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: one.status.mtu == 1330, "the changed interface was seen")
    assert one.status.publicIPs == ("192.168.0.1", "fd00::1")
    one.stop()
    one.start()
    assert one.status.publicIPs == ("192.168.0.1", "fd00::1")
    one.ip("address", "del", "fd00::1/64", "dev", "eth0")
    until(lambda: one.status.publicIPs == ("192.168.0.1", "fd00::99"), "the oldest of the others")


def test_the_default_route_moves_to_another_interface(pair: tuple[Node, Node, Pod, Pod]) -> None:
    one, two, a, b = pair
    one.cluster.cable("n2", "eth1", 102, ipv6=False)
    assert two.status.interface == "eth0"
    two.ip("route", "replace", "default", "via", "192.168.0.254", "dev", "eth1")
    until(lambda: two.status.interface == "eth1")
    assert two.status.publicIPs == ("192.168.0.102",)
    two.ip("link", "set", "eth0", "down")
    until(lambda: a.reaches(b.addresses[0]))


def test_an_interface_that_goes_and_comes_back(pair: tuple[Node, Node, Pod, Pod]) -> None:
    one, two, a, b = pair
    two.ip("link", "delete", "eth0")
    until(lambda: not two.status.ready)
    assert two.status.problems
    assert two.subnet == "10.244.2.0/24", "the last good state stays"
    one.cluster.cable("n2", "eth0", 2, ipv6=False)
    two.ip("route", "add", "default", "via", "192.168.0.254")
    until(lambda: two.status.ready)
    until(lambda: a.reaches(b.addresses[0]))
    assert not two.status.problems


def test_a_link_flap_brings_all_routes_back(pair: tuple[Node, Node, Pod, Pod]) -> None:
    _, two, a, b = pair
    two.ip("link", "set", "eth0", "down")
    two.ip("link", "set", "eth0", "up")
    two.ip("route", "add", "default", "via", "192.168.0.254")
    until(lambda: a.reaches(b.addresses[0]))
    until(lambda: two.status.ready)


def test_a_link_flap_brings_host_gw_routes_back(cluster: Cluster) -> None:
    cluster.network["Backend"] = {"Type": "host-gw"}
    a, b = cluster.two_pods()
    one = a.node
    one.ip("link", "set", "eth0", "down")
    one.ip("link", "set", "eth0", "up")
    one.ip("route", "add", "default", "via", "192.168.0.254")
    until(lambda: a.reaches(b.addresses[0]))


def test_a_deleted_device_is_restored_with_its_peers(pair: tuple[Node, Node, Pod, Pod]) -> None:
    one, _, a, b = pair
    one.ip("link", "delete", "flannel.1")
    until(lambda: a.reaches(b.addresses[0]))
    assert one.sh("bridge", "fdb", "show", "dev", "flannel.1").count("dst 192.168.0.2") == 1


def test_the_mtu_follows_the_interface(pair: tuple[Node, Node, Pod, Pod]) -> None:
    one, _, _, _ = pair
    one.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: one.status.mtu == 1350)
    until(lambda: "mtu 1350" in one.ip("link", "show", "flannel.1"))
    c = one.pod("c")
    assert "mtu 1350" in sh(c.name, "ip", "link", "show", "eth0")


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_a_network_that_is_too_small_for_ipv6_carries_ipv4(cluster: Cluster, wiring: str) -> None:
    nodes = [cluster.node(1), cluster.node(2)]
    for node in nodes:
        node.settings["cni"]["wiring"] = wiring
        node.ip("link", "set", "eth0", "mtu", "1280")
        node.start()
    a, b = (node.pod(name) for node, name in zip(nodes, "ab", strict=True))
    assert "mtu 1230" in sh(a.name, "ip", "link", "show", "eth0")
    until(lambda: a.reaches(b.addresses[0]))
    assert nodes[0].status.problems == ()


def test_an_agent_without_an_interface_waits_for_one(cluster: Cluster) -> None:
    one = cluster.node(1)
    one.ip("route", "del", "default")
    one.ip("address", "flush", "dev", "eth0")
    one.launch()
    until(lambda: (status := one.ask()) is not None and status.waitingFor)
    assert not one.status.ready
    assert not (one.directory / "net.d" / "10-percale.conflist").exists()
    one.ip("address", "add", "192.168.0.1/24", "dev", "eth0")
    one.ip("route", "add", "default", "via", "192.168.0.254")
    one.wait_ready()
