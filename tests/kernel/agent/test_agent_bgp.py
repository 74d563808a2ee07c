"""Nodes that find each other's pods by BGP: real agents, real BIRD, real packets."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import DUAL, Cluster, Node
from tests.waiting import until

from percale.backend.bgp.bird_process import BirdProcess
from percale.backend.state_dir import BACKEND_STATE

BGP = {**DUAL, "Backend": {"Type": "bgp"}}


def bird(node: Node) -> BirdProcess:
    """That of the node's agent."""
    return BirdProcess(node.directory / "state" / BACKEND_STATE / "bgp", lambda _node, _leases: None)


def sessions(node: Node) -> dict[str, str]:
    """State by neighbour."""
    status = node.status.bgp
    return {each.address: each.state for each in status.sessions} if status is not None else {}


def all_reached(*nodes: Node) -> None:
    until(
        lambda: all(peer.reached and peer.problem is None for node in nodes for peer in node.status.peers),
        "\n".join(f"{node.name}: {node.status.bgp} {node.status.problems}" for node in nodes),
    )


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[Node]]:
    cluster.network = BGP
    made = [cluster.node(number) for number in (1, 2, 3)]
    for node in made:
        node.launch()
    for node in made:
        node.wait_ready()
    yield made
    for node in made:
        if (pid := bird(node).pid) is not None:
            os.kill(pid, signal.SIGKILL)


def test_pods_of_a_mesh(nodes: list[Node]) -> None:
    one, two, three = nodes
    all_reached(*nodes)
    a, b, c = one.pod("a"), two.pod("b"), three.pod("c")
    for source, target in ((a, b), (b, c), (c, a)):
        assert all(map(source.reaches, target.addresses))
    assert one.ip("route", "show", two.subnet).split() == f"{two.subnet} via 192.168.0.2 dev eth0 proto 112 metric 32".split()
    assert sessions(one) == dict.fromkeys(("192.168.0.2", "192.168.0.3", "fd00::2", "fd00::3"), "Established")
    assert [peer.path for peer in one.status.peers] == ["direct", "direct"]
    assert one.status.problems == ()


def kill_bird(node: Node) -> None:
    pid = bird(node).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: bird(node).pid not in (None, pid))


def kill_agent(node: Node) -> None:
    node.stop(signal.SIGKILL)
    node.start()


def kill_bird_then_agent(node: Node) -> None:
    pid = bird(node).pid
    assert pid is not None
    node.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    node.start()


def kill_agent_while_bird_restarts(node: Node) -> None:
    pid = bird(node).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    node.stop(signal.SIGKILL)
    node.start()


@pytest.mark.parametrize("kill", [kill_bird, kill_agent, kill_bird_then_agent, kill_agent_while_bird_restarts])
def test_no_route_is_lost(nodes: list[Node], kill: Callable[[Node], None], tmp_path: Path) -> None:
    one, two, three = nodes
    all_reached(*nodes)
    a, b = one.pod("a"), two.pod("b")
    events = {node.name: (tmp_path / node.name).open("w+") for node in nodes}
    monitors = [
        subprocess.Popen(["nsenter", f"--net=/run/netns/{node.name}", "ip", "monitor", "route"], stdout=events[node.name])
        for node in nodes
    ]
    try:
        with a.pinging(b.addresses[0]) as answered:
            kill(one)
            until(lambda: set(sessions(one).values()) == {"Established"} and len(sessions(one)) == 4)
            all_reached(*nodes)
        sent, received = answered()
        assert received == sent > 10
    finally:
        for monitor in monitors:
            monitor.terminate()
            monitor.wait()
    for file in events.values():
        file.seek(0)
        assert "10.244" not in file.read()
        file.close()
