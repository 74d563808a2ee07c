"""Established flows pass by the rules, and nothing else does: real agents, real packets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import builders
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.policies import flow, streams
from tests.waiting import until


def two_pods(cluster: Cluster, backend: str = "vxlan", **settings: Any) -> tuple[Pod, Pod]:
    cluster.network = {**DUAL, "Backend": {"Type": backend}}
    return cluster.two_pods(ipv6=True, **settings)


def count_forwarded(node: Node) -> None:
    """A table of somebody else, which counts what the forward chain sees."""
    node.sh("nft", "table inet probe { chain seen { type filter hook forward priority 10; counter; }; }")


def forwarded(node: Node) -> int:
    (packets,) = re.findall(r"packets (\d+)", node.sh("nft", "list table inet probe"))
    return int(packets)


def hooked(node: Node) -> str:
    return node.sh("nft", "list table netdev percale", check=False)


def wait_for_hooks(*pods: Pod) -> None:
    def known() -> bool:
        return all(f"{pod.addresses[0]} :" in hooked(pod.node).partition("map home4")[2] for pod in pods)

    until(known, "the pods are hooked")


def hooked_pods(cluster: Cluster, backend: str = "vxlan") -> tuple[Pod, Pod]:
    pods = two_pods(cluster, backend)
    wait_for_hooks(*pods)
    return pods


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize("family", [0, 1])
def test_an_established_flow_passes_by_the_rules(cluster: Cluster, backend: str, family: int) -> None:
    a, b = hooked_pods(cluster, backend)
    count_forwarded(a.node)
    with a.pinging(b.addresses[family]) as counts:
        counts.wait_answered(60)
    assert counts.lost <= 1
    assert forwarded(a.node) < counts.answered  # of twice as many


def test_off_means_off(cluster: Cluster) -> None:
    a, b = two_pods(cluster, shortcut="off")
    count_forwarded(a.node)
    with a.pinging(b.addresses[0]) as counts:
        counts.wait_answered(30)
    assert forwarded(a.node) >= 2 * (counts.answered - 1)
    assert not hooked(a.node)


def test_off_removes_what_a_previous_run_left(cluster: Cluster) -> None:
    a, b = two_pods(cluster)
    wait_for_hooks(a)
    a.node.stop()
    a.node.settings["shortcut"] = "off"
    a.node.start()
    until(lambda: not hooked(a.node), "the table is gone")
    assert a.reaches(b.addresses[0])


def test_two_pods_of_one_node(cluster: Cluster) -> None:
    a, _ = two_pods(cluster)
    c = a.node.pod("c")
    wait_for_hooks(a, c)
    count_forwarded(a.node)
    with a.pinging(c.addresses[0]) as counts:
        counts.wait_answered(60)
    assert counts.lost <= 1
    assert forwarded(a.node) < counts.answered


def test_a_flow_that_others_translate_is_answered_and_takes_the_long_way(cluster: Cluster) -> None:
    a, b = hooked_pods(cluster)
    translation = f"ip daddr 10.99.0.1 dnat to {b.addresses[0]}"
    a.node.sh("nft", f"table ip other {{ chain pre {{ type nat hook prerouting priority dstnat; {translation}; }}; }}")
    count_forwarded(a.node)
    with a.pinging("10.99.0.1") as counts:
        counts.wait_answered(30)
    assert counts.lost <= 1
    assert forwarded(a.node) >= 2 * (counts.answered - 1)


TALK = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "TCP" else socket.SOCK_DGRAM
for place in sys.argv[2:]:
    with socket.socket(socket.AF_INET, kind) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
        near.settimeout(5)
        near.bind(("", 5555))
        near.connect((place, 80))
        for _ in range(20):
            near.send(b"?")
            assert near.recv(9) == b"?", place
"""
ECHO = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "TCP" else socket.SOCK_DGRAM
with socket.socket(socket.AF_INET, kind) as listener:
    listener.bind(("", 80))
    if kind == socket.SOCK_STREAM:
        listener.listen()
    print("listening", flush=True)
    while True:
        if kind == socket.SOCK_DGRAM:
            listener.sendto(*listener.recvfrom(9))
            continue
        near = listener.accept()[0]
        try:
            while data := near.recv(9):
                near.send(data)
        except ConnectionResetError:
            pass
"""


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_one_port_used_straight_and_by_a_translated_address_is_never_mistaken(cluster: Cluster, protocol: str) -> None:
    a, b = hooked_pods(cluster)
    translation = f"ip daddr 10.99.0.1 dnat to {b.addresses[0]}"
    a.node.sh("nft", f"table ip other {{ chain pre {{ type nat hook prerouting priority dstnat; {translation}; }}; }}")
    inside = ["nsenter", f"--net={NETNS / b.name}", sys.executable, "-c", ECHO, protocol]
    with subprocess.Popen(inside, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            straight, translated = b.addresses[0], "10.99.0.1"
            places = (straight, translated, straight, translated, translated, straight)
            sh(a.name, sys.executable, "-c", TALK, protocol, *places)
        finally:
            server.kill()


def test_a_policy_that_forbids_a_known_flow_stops_it(cluster: Cluster) -> None:
    a, b = hooked_pods(cluster)
    for pod in (a, b):
        found = builders.pod(pod.name, *pod.addresses, node=pod.node.name, labels={"app": pod.name})
        cluster.write(pod.name, found)
    with a.pinging(b.addresses[0]) as counts:
        counts.wait_answered(30)
        cluster.write("closed", builders.policy(podSelector={"matchLabels": {"app": "b"}}))
        until(lambda: not a.reaches(b.addresses[0]), "new flows are denied")
        before = counts.answered
        until(lambda: counts.unanswered_in_a_row > 200)
    assert counts.answered - before < 100, "what was known would have gone on for five seconds"


def test_an_address_that_another_pod_has_next_is_the_other_pods(cluster: Cluster) -> None:
    a, b = hooked_pods(cluster)
    with a.pinging(b.addresses[0]) as counts:
        counts.wait_answered(20)
    b.cni("DEL")
    c = Pod(b.node, "c")
    annotations = {"percale.io/ips": ",".join(b.addresses)}
    cluster.write("c", builders.pod("c", node=c.node.name, meta={"annotations": annotations}))
    c.add()
    assert c.addresses == b.addresses
    until(lambda: a.reaches(c.addresses[0]))
    with a.pinging(c.addresses[0]) as counts:
        counts.wait_answered(60)
    assert counts.lost <= 30


def known(a: Pod, b: Pod, family: int) -> tuple[str, ...]:
    """With these options a `ping` is, for some seconds, of a flow that the shortcut knows."""
    same = ("-e", "77")

    def learned() -> bool:
        """Both ways; not yet if the table was reloaded meanwhile."""
        assert a._ping(b.addresses[family], *same, "-c", "20", "-i", "0.01").returncode == 0
        flows = hooked(a.node).partition(f"set pings{(4, 6)[family]}")[2].partition("}")[0]
        return flows.count(f" . {77:#x} expires") == 2

    until(learned, "the flow is known")
    return same


@pytest.mark.parametrize("family", [0, 1])
def test_a_packet_at_the_end_of_its_life_gets_no_further(cluster: Cluster, family: int) -> None:
    a, b = hooked_pods(cluster)
    same = known(a, b, family)
    short = a._ping(b.addresses[family], *same, "-t", "1", "-c", "3", "-i", "0.1", "-W", "1")
    assert short.returncode == 1
    assert "errors" in short.stdout  # it was told that it died


@pytest.mark.parametrize("family", [0, 1])
def test_fragments_of_a_known_flow_arrive(cluster: Cluster, family: int) -> None:
    a, b = hooked_pods(cluster)
    same = known(a, b, family)
    long = a._ping(b.addresses[family], *same, "-s", "4000", "-c", "5", "-i", "0.1", "-W", "1")
    assert "5 received" in long.stdout


@pytest.mark.parametrize("family", [0, 1])
def test_a_packet_above_the_path_mtu_is_reported_to_its_sender(cluster: Cluster, family: int) -> None:
    a, b = hooked_pods(cluster)
    (device,) = re.findall(rf'{re.escape(a.addresses[0])} : "(\w+)"', hooked(a.node))
    a.node.stop()  # it would give the device its length back
    a.node.ip("link", "set", device, "mtu", "1500")
    sh(a.name, "ip", "link", "set", "eth0", "mtu", "1500")
    same = known(a, b, family)
    long = a._ping(b.addresses[family], *same, "-M", "do", "-s", "1430", "-c", "1", "-W", "1")
    assert long.returncode == 1
    assert "+1 errors" in long.stdout


@pytest.mark.parametrize("family", [0, 1])
def test_another_pod_cannot_join_a_known_flow(cluster: Cluster, family: int) -> None:
    a, b = two_pods(cluster)
    c = a.node.pod("c")
    wait_for_hooks(a, b, c)
    table = ("ip", "ip6")[family]
    same = known(a, b, family)
    sh(c.name, "ip", "addr", "add", a.addresses[family], "dev", "eth0", *(("nodad",) if family else ()))
    c._ping(b.addresses[family], *same, "-I", a.addresses[family], "-c", "3", "-i", "0.1", "-W", "1")
    listed = a.node.sh("nft", f"list counter {table} percale spoofed")
    assert int(re.findall(r"packets (\d+)", listed)[0]) >= 3


def test_who_finds_no_room_among_the_known_flows_takes_the_long_way(cluster: Cluster, tmp_path: Path) -> None:
    """One pod's flows have filled it."""
    node = cluster.node(1).start()
    a, b = node.pod("a"), node.pod("b")
    wait_for_hooks(a, b)
    others = [f"10.244.1.{100 + number // 60000} . 10.244.1.2 . udp . {number}" for number in range(65536)]
    echoes = [f"10.244.{100 + number // 60000}.1 . 10.244.1.2 . 8 . {number % 60000}" for number in range(65536)]
    filling = tmp_path / "filling"
    filling.write_text(
        "".join(
            f"add element netdev percale {name} {{ {', '.join(f'{each} timeout 1h' for each in elements)} }}\n"
            for name, elements in (("flows4", others), ("pings4", echoes))
        )
    )
    node.sh("nft", "-f", str(filling))
    count_forwarded(node)
    flows = streams((a, b))
    with flows.going():
        flows.until_passing({flow(a, b)})
        since = flows.rounds
        with a.pinging(b.addresses[0]) as counts:
            counts.wait_answered(60)
        assert not flows.lost(since, flows.rounds - 1, [flow(a, b)])
    assert counts.lost <= 1
    assert forwarded(node) > sum(counts()) / 2, "of a flow that is learned the first few packets are forwarded"


def test_what_nft_lists_of_it_can_be_loaded_again(cluster: Cluster, tmp_path: Path) -> None:
    a, _ = hooked_pods(cluster)
    listed = tmp_path / "listed.nft"
    listed.write_text(hooked(a.node))
    a.node.sh("nft", "-c", "-f", str(listed))


def test_a_flushed_ruleset_is_back(cluster: Cluster) -> None:
    a, b = hooked_pods(cluster)
    a.node.sh("nft", "flush ruleset")
    wait_for_hooks(a)
    until(lambda: a.reaches(b.addresses[0]), "so are the other tables")


def test_cleanup_takes_the_shortcut_away(cluster: Cluster) -> None:
    a, _ = two_pods(cluster)
    wait_for_hooks(a)
    a.node.stop()
    assert hooked(a.node)
    done = a.node.percale("agent", "--config", str(a.node.write_config()), "--cleanup")
    assert done.returncode == 0, done.stderr
    assert not hooked(a.node)
