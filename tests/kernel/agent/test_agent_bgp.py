"""Nodes that find each other's pods by BGP: real agents, real BIRD, real packets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node
from tests.waiting import until

from percale.backend.bgp.backend import plan
from percale.backend.bgp.bird_process import BirdProcess
from percale.backend.state_dir import BACKEND_STATE
from percale.model.backend_options import BgpOptions
from percale.model.bgp import REFLECTOR

BGP = {**DUAL, "Backend": {"Type": "bgp"}}


def state_of(node: Node) -> Path:
    """BIRD's directory."""
    return node.directory / "state" / BACKEND_STATE / "bgp"


def bird(node: Node) -> BirdProcess:
    """That of the node's agent."""
    return BirdProcess(state_of(node), partial(plan, options=BgpOptions()))


def sessions(node: Node) -> dict[str, str]:
    """State by neighbour."""
    status = node.status.bgp
    return {each.address: each.info for each in status.sessions} if status is not None else {}


def all_reached(*nodes: Node) -> None:
    until(
        lambda: all(peer.reached and peer.problem is None for node in nodes for peer in node.status.peers),
        "\n".join(f"{node.name}: {node.status.bgp} {node.status.problems}" for node in nodes),
    )


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[Node]]:
    cluster.network = BGP
    made = [cluster.node(number, ipv6=True) for number in (1, 2, 3)]
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
    assert (
        one.ip("route", "show", two.subnet).split()
        == f"{two.subnet} via 192.168.0.2 dev eth0 proto 112 metric 32".split()
    )
    assert sessions(one) == dict.fromkeys(("192.168.0.2", "192.168.0.3", "fd00::2", "fd00::3"), "Established")
    assert [peer.path for peer in one.status.peers] == ["direct", "direct"]
    assert one.status.problems == ()


PRETENDER = """
import socket, sys
c = socket.socket()
c.settimeout(1)
try:
    c.connect((sys.argv[1], int(sys.argv[2])))
    c.sendall(bytes.fromhex('ff' * 16 + '001d0104fc00005ac0a8000200'))
    print(c.recv(4096).hex())
except OSError as error:
    print(error)
"""
"""Opens a BGP session as node n2."""


@pytest.mark.parametrize("hangs", [False, True])
def test_no_pod_is_a_neighbour_at_a_port_of_the_clusters_choice(cluster: Cluster, hangs: bool) -> None:
    """Its packets to another node have its own node's address, which is a neighbour's there."""
    cluster.network = BGP
    cluster.write("bgp", calico("BGPConfiguration", "default", listenPort=1179))
    one, two = made = [cluster.node(number, ipv6=True).launch() for number in (1, 2)]
    try:
        all_reached(*(node.wait_ready() for node in made))
        two.pod("pretender")
        if hangs:
            pid = bird(two).pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            until(lambda: any("BIRD does not answer" in str(each) for each in two.status.problems))
        for port in (179, 1179, 1790):
            command = ["nsenter", f"--net={NETNS / 'pretender'}", sys.executable, "-c", PRETENDER, "192.168.0.1"]
            done = subprocess.run([*command, str(port)], capture_output=True, text=True, check=True, timeout=30)
            assert done.stdout == "timed out\n", port
        with pytest.raises(AssertionError, match="1179"):
            one.pod("thief", portMappings=[{"hostPort": 1179, "containerPort": 80, "protocol": "tcp"}])
    finally:
        for node in made:
            if (pid := bird(node).pid) is not None:
                os.kill(pid, signal.SIGKILL)


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


@contextmanager
def no_route_event(*nodes: Node) -> Iterator[None]:
    """No kernel of these nodes tells of a route to pods meanwhile; only BIRD may write its own table's again, as they are."""
    with ExitStack() as stack:
        files = [stack.enter_context((node.directory / "events").open("w+")) for node in nodes]
        for node, file in zip(nodes, files, strict=True):
            command = ["nsenter", f"--net={NETNS / node.name}", "ip", "monitor", "route"]
            monitor = stack.enter_context(subprocess.Popen(command, stdout=file))
            stack.callback(monitor.terminate)
        yield
        for file in files:
            file.seek(0)
            told = [line for line in file if "10.244." in line or "fd00:244:" in line]
            assert [line for line in told if "table 179" not in line or line.startswith("Deleted")] == []


@pytest.mark.parametrize("kill", [kill_bird, kill_agent, kill_bird_then_agent, kill_agent_while_bird_restarts])
def test_no_route_is_lost(nodes: list[Node], kill: Callable[[Node], None]) -> None:
    one, two, _ = nodes
    all_reached(*nodes)
    a, b = one.pod("a"), two.pod("b")
    with no_route_event(*nodes), a.pinging(b.addresses[0]) as counts:
        kill(one)
        until(lambda: list(sessions(one).values()) == ["Established"] * 4)
        all_reached(*nodes)
    assert counts.lost == 0
    assert counts.answered > 10


def calico(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}


def node_object(name: str, *, reflector: str | None = None, **labels: str) -> dict[str, Any]:
    annotations = {REFLECTOR: reflector} if reflector is not None else {}
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def types(node: Node) -> set[tuple[str, str, str]]:
    """Type and state of each session."""
    status = node.status.bgp
    return {(each.address, each.type, each.info) for each in status.sessions} if status is not None else set()


def test_a_mesh_turns_to_reflectors_without_a_route_event(nodes: list[Node], cluster: Cluster) -> None:
    _, two, three = nodes
    all_reached(*nodes)
    a, c = two.pod("a"), three.pod("c")
    cluster.write("nodes", node_object("n1", reflector="1.0.0.1", reflects="yes"), node_object("n2"), node_object("n3"))
    reflected = {(address, "node specific", "Established") for address in ("192.168.0.1", "fd00::1")}
    with no_route_event(*nodes), a.pinging(c.addresses[0]) as counts:
        peer = calico("BGPPeer", "reflectors", nodeSelector="!has(reflects)", peerSelector="has(reflects)")
        cluster.write("bgp", peer, calico("BGPConfiguration", "default", nodeToNodeMeshEnabled=False))
        until(lambda: types(two) == types(three) == reflected)
        until(lambda: all("Mesh" not in (state_of(node) / "bird.conf").read_text() for node in nodes))
        all_reached(*nodes)
    assert counts.lost == 0
    assert counts.answered > 10
    assert two.ip("route", "show", three.subnet).startswith(f"{three.subnet} via 192.168.0.3 dev eth0")
    cluster.write("bgp")
    cluster.write("nodes")
    until(lambda: all({kind for _, kind, _ in types(node)} == {"node-to-node mesh"} for node in nodes))
    all_reached(*nodes)


@pytest.mark.parametrize("address", ["192.168.0.99/24", "fd00::99/64"])
def test_an_address_that_comes_and_goes_leaves_the_routes(nodes: list[Node], address: str) -> None:
    """As a virtual router's or one of IPv6's privacy: BIRD's direct protocol loses the whole network with it."""
    one = nodes[0]
    all_reached(*nodes)

    def routes() -> str:
        return one.ip("-6" if ":" in address else "-4", "route", "show", "proto", "112")

    before = routes()
    for pause in (0, 0.3):
        one.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        time.sleep(pause)
        one.ip("address", "del", address, "dev", "eth0")
        time.sleep(1)
        until(lambda: routes() == before, f"its peers are on its own link again\n{before}")
