"""IPv4, IPv6 and both, also where a node has only one of them."""

from __future__ import annotations

import pytest
from tests.kernel.agent.cluster import DUAL, Cluster
from tests.waiting import until

V6 = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_dual_stack(cluster: Cluster, backend: str) -> None:
    cluster.network = {**DUAL, "Backend": {"Type": backend}}
    a, b = cluster.two_pods(ipv6=True)
    assert [address.count(":") > 0 for address in b.addresses] == [False, True]
    assert a.node.status.publicIPs == ("192.168.0.1", "fd00::1")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_ipv6_alone(cluster: Cluster, backend: str) -> None:
    cluster.network = {**V6, "Backend": {"Type": backend}}
    a, b = cluster.two_pods(ipv4=False, ipv6=True)
    assert len(b.addresses) == 1
    assert a.node.status.mtu == (1430 if backend == "vxlan" else 1500)


def test_a_node_with_only_one_family_is_reached_in_that_family(cluster: Cluster) -> None:
    cluster.network = DUAL
    one, two = cluster.node(1, ipv6=True).start(), cluster.node(2, ipv6=False).start()
    a, b = one.pod("a"), two.pod("b")
    until(lambda: a.reaches(b.addresses[0]))
    assert two.status.publicIPs == ("192.168.0.2",)
    assert [(peer.node, peer.problem) for peer in one.status.peers] == [("n2", None)]
    two.ip("address", "add", "fd00::2/64", "dev", "eth0", "nodad")
    two.ip("-6", "route", "add", "default", "via", "fd00::254")
    until(lambda: two.status.publicIPs == ("192.168.0.2", "fd00::2"))
    until(lambda: a.reaches(b.addresses[1]), "the second family works once it is there")
