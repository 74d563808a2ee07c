"""Pods through the whole node: runtime, plugin, agent, kernel."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from tests.kernel.agent.cluster import NETNS, Cluster, Pod, sh
from tests.waiting import until

OUTSIDE = "192.168.0.254"
"""The switch: it knows no route to pods."""


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_pods_of_one_node_and_of_two(cluster: Cluster, wiring: str) -> None:
    one, two = cluster.node(1), cluster.node(2)
    for node in (one, two):
        node.settings["cni"]["wiring"] = wiring
        node.start()
    a, b, c = one.pod("a"), one.pod("b"), two.pod("c")
    until(lambda: a.reaches(b.addresses[0]) and a.reaches(c.addresses[0]))
    assert ("cni0" in one.ip("-br", "link")) == (wiring == "bridge")
    with a.pinging(c.addresses[0]) as counts:
        one.stop(signal.SIGKILL)
        one.start()
    assert counts.lost <= 1
    assert counts.answered > 20


def test_the_first_packet_over_a_new_bridge_arrives(cluster: Cluster) -> None:
    cluster.network = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
    nodes = [cluster.node(number, ipv6=True) for number in (1, 2)]
    for node in nodes:
        node.settings["cni"]["wiring"] = "bridge"
        node.start()
    for node in nodes:
        until(lambda node=node: node.status.peers and all(peer.reached for peer in node.status.peers))  # type: ignore[misc]
    client, server = (node.pod(name) for node, name in zip(nodes, ("client", "server"), strict=True))
    assert all(client.reaches(address) for address in server.addresses)


@pytest.mark.parametrize("masquerade", [True, False])
def test_traffic_that_leaves_the_pod_network_gets_the_nodes_address(cluster: Cluster, masquerade: bool) -> None:
    one, two = cluster.node(1, ipMasq=masquerade).start(), cluster.node(2).start()
    a, b = one.pod("a"), two.pod("b")
    until(lambda: a.reaches(b.addresses[0]), "pods reach each other either way")
    assert a.reaches(OUTSIDE) == masquerade
    assert two.pod("c").reaches("192.168.0.1"), "nodes are outside too"


def test_a_pod_that_goes_gives_everything_back_and_is_counted(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    links = one.ip("-br", "link")
    a = one.pod("a")
    assert one.status.addresses[0].used == 1
    a.cni("DEL")
    a.cni("DEL")
    assert one.status.addresses[0].used == 0
    assert not one.status.pods
    assert one.ip("-br", "link") == links
    text = one.sh("curl", "-s", "--unix-socket", one.http.removeprefix("unix:"), "http://agent/metrics").splitlines()
    assert 'percale_cni_requests_total{result="ok",verb="ADD"} 1.0' in text
    assert 'percale_cni_requests_total{result="ok",verb="DEL"} 2.0' in text
    assert 'percale_cni_seconds_count{verb="ADD"} 1.0' in text
    assert "percale_pods 0.0" in text


def test_an_agent_killed_in_the_middle_of_an_add_loses_nothing(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    links = one.ip("-br", "link")
    for number, milliseconds in enumerate((0, 5, 10, 15, 20, 30)):
        pod = Pod(one, f"a{number}")
        cluster.namespace(pod.name)
        plugin = pod.launch("ADD")
        time.sleep(milliseconds / 1000)  # somewhere in the middle, wherever that is
        one.stop(signal.SIGKILL)
        one.start()
        plugin.communicate(timeout=30)
        if plugin.returncode == 0:
            assert "inet 10.244.1." in sh(pod.name, "ip", "address")
        pod.cni("DEL")
    assert one.status.addresses[0].used == 0
    until(lambda: one.ip("-br", "link").split() == links.split())
    assert one.pod("b").reaches("192.168.0.1")


def test_a_node_that_lost_its_place_says_so_to_the_runtime(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    a = one.pod("a")
    assert a.launch("STATUS").communicate(timeout=30)[0] == ""
    one.ip("link", "delete", "eth0")
    until(lambda: not one.status.ready)
    status = a.launch("STATUS")
    answer = json.loads(status.communicate(timeout=30)[0])
    assert (status.returncode, answer["code"]) == (1, 51)
    assert "cannot choose the interface between nodes" in answer["msg"]
    a.cni("DEL")
    assert one.status.addresses[0].used == 0


def test_an_address_that_is_taken_ends_the_agent_with_one_line(cluster: Cluster) -> None:
    one = cluster.node(1, http="127.0.0.1:9099")
    holder = subprocess.Popen(
        ["nsenter", f"--net={NETNS / 'n1'}", "python3", "-m", "http.server", "--bind", "127.0.0.1", "9099"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: "9099" in one.sh("ss", "-Hltn"))
        ended = one.percale("agent", "--config", str(one.write_config()))
    finally:
        holder.kill()
        holder.wait()
    assert ended.returncode == 2
    assert "http 127.0.0.1:9099: cannot listen: Address already in use; choose another with --http" in ended.stderr
