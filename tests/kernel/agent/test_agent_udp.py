"""The udp backend with real agents: its program carries packets, outlives the agent, and takes none that are not a peer's."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import packet_socket
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.waiting import until

from percale.backend.state_dir import BACKEND_STATE
from percale.backend.udp.config import SOCKET
from percale.unix_socket import peer_credentials

PORT = 8285
BULK = 20_000_000
LARGEST = 1500 - 28 - 28
"""Bytes that a ping may carry: in IPv4 and ICMP, in the tunnel's IPv4 and UDP."""


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[tuple[Node, Node]]:
    cluster.network = {"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}
    one, two = cluster.node(1), cluster.node(2)
    for node in (one, two):
        node.launch()
    for node in (one, two):
        node.wait_ready()
    yield one, two
    for node in (one, two):
        if (pid := pid_of(node)) is not None:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def pods(nodes: tuple[Node, Node]) -> tuple[Pod, Pod]:
    one, two = (node.pod(f"p{number}") for number, node in enumerate(nodes, 1))
    until(lambda: one.reaches(two.addresses[0]), "the tunnel is there")
    return one, two


def directory(node: Node) -> Path:
    return node.directory / "state" / BACKEND_STATE / "udp"


def pid_of(node: Node) -> int | None:
    """Of the tunnel's process; None: it does not run."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(directory(node) / SOCKET))
        except OSError:
            return None
        return peer_credentials(connection).pid


def dropped(node: Node) -> str:
    """The tunnel's answer to whoever connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(directory(node) / SOCKET))
        return connection.recv(4096).decode()


def ping(pod: Pod, address: str, *options: str) -> str:
    command = ["nsenter", f"--net={NETNS / pod.name}", "ping", "-n", "-c1", "-W2", *options, address]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def python_in(namespace: str, program: str) -> subprocess.Popen[bytes]:
    command = ["nsenter", f"--net={NETNS / namespace}", sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("options", ["", "01010100"], ids=["plain", "with IP options"])
def test_a_stream_arrives_whole_and_in_large_pieces(
    nodes: tuple[Node, Node], pods: tuple[Pod, Pod], options: str
) -> None:
    """Segments are split and joined by our own code: a wrong byte or checksum would show."""
    one, two = pods
    before = list(map(pid_of, nodes))
    server = python_in(
        two.name,
        "import hashlib, socket, sys\n"
        "s = socket.create_server(('', 5001)); print('ready', flush=True); c, _ = s.accept(); h = hashlib.sha256(); n = 0\n"
        "while data := c.recv(1 << 16): h.update(data); n += len(data)\n"
        "print(n, h.hexdigest(), flush=True)",
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    content = os.urandom(BULK // 100) * 100
    client = python_in(
        one.name,
        f"import socket, sys; c = socket.socket(); c.setsockopt(0, {socket.IP_OPTIONS}, bytes.fromhex('{options}'));"
        f"c.connect(('{two.addresses[0]}', 5001)); c.sendall(sys.stdin.buffer.read())",
    )
    client.communicate(content, timeout=120)
    answer = server.communicate(timeout=120)[0].split()
    assert answer == [str(len(content)).encode(), hashlib.sha256(content).hexdigest().encode()]
    assert list(map(pid_of, nodes)) == before


def test_what_is_too_big_or_has_come_too_far_is_told(nodes: tuple[Node, Node], pods: tuple[Pod, Pod]) -> None:
    """flannel says neither, and lets a TTL of 0 wrap."""
    one, two = pods
    target = two.addresses[0]
    assert ", 1 received" in ping(one, target, "-M", "do", "-s", str(LARGEST))
    assert ", 1 received" in ping(one, target, "-s", "20000"), "in fragments"
    far = ["Time to live exceeded" in ping(one, target, "-t", str(hops)) for hops in range(1, 5)]
    assert far == [True] * 4
    assert ", 1 received" in ping(one, target, "-t", "5")
    nodes[0].ip("route", "add", "192.168.0.2", "dev", "eth0", "mtu", "1400")
    assert ", 0 received" in ping(one, target, "-M", "do", "-s", str(LARGEST))
    until(lambda: f"mtu {1400 - 28}" in sh_route(one, target), "the pod has learned the path's MTU")
    assert ", 1 received" in ping(one, target, "-s", "20000"), "what may be fragmented passes as before"


def sh_route(pod: Pod, target: str) -> str:
    command = ["nsenter", f"--net={NETNS / pod.name}", "ip", "route", "get", target]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_it_outlives_the_agent_and_no_packet_is_lost(nodes: tuple[Node, Node], pods: tuple[Pod, Pod]) -> None:
    one, two = nodes
    before = pid_of(one)
    assert before is not None
    with pods[1].pinging(pods[0].addresses[0]) as counts:
        one.stop(signal.SIGKILL)
        one.start()
    assert counts.lost == 0 < counts.answered
    assert pid_of(one) == before
    one.stop()
    done = one.percale("agent", "--cleanup", "--config", str(one.write_config()))
    assert (done.returncode, done.stderr) == (0, "")
    until(lambda: not Path(f"/proc/{before}/cmdline").exists() or not Path(f"/proc/{before}/cmdline").read_bytes())
    assert "flannel0" not in one.ip("link")
    until(lambda: "10.244." not in two.ip("route", "show", "dev", "flannel0"), "the peer has left")


def test_it_comes_back_whatever_is_taken_away(nodes: tuple[Node, Node], pods: tuple[Pod, Pod]) -> None:
    one, _ = nodes
    sender, target = pods[0], pods[1].addresses[0]
    pid = pid_of(one)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid_of(one) not in (None, pid), "another process")
    until(lambda: sender.reaches(target), "packets pass again")
    pid = pid_of(one)
    one.ip("link", "delete", "flannel0")
    until(lambda: sender.reaches(target), "packets pass by a new device")
    assert pid_of(one) == pid
    one.ip("address", "flush", "dev", "flannel0")
    until(lambda: "inet 10.244." in one.ip("address", "show", "flannel0"))
    assert one.status.problems == ()


def test_a_peer_speaks_for_its_own_pods_only(nodes: tuple[Node, Node], pods: tuple[Pod, Pod]) -> None:
    """flannel takes what anybody sends for anybody."""
    one, two = nodes
    receiver = pods[1]
    sniffer = packet_socket(receiver.name, 3)
    sniffer.setblocking(False)

    def send(inner_source: str, mark: bytes) -> None:
        inner = frames.packet(inner_source, receiver.addresses[0], frames.udp(9, 5001, mark))
        sender = python_in(
            one.name,
            "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            f"s.sendto(sys.stdin.buffer.read(), ('192.168.0.2', {PORT}))",
        )
        sender.communicate(inner, timeout=30)

    seen = bytearray()

    def arrived(mark: bytes) -> bool:
        while True:
            try:
                seen.extend(sniffer.recv(4096))
            except BlockingIOError:
                return mark in seen

    two_subnet = two.subnet.rpartition(".")[0]
    for source in ("10.244.99.7", f"{two_subnet}.77", "192.168.0.1", "127.0.0.1"):
        send(source, b"<forbidden>")
    send(pods[0].addresses[0], b"<permitted>")
    until(lambda: arrived(b"<permitted>"), "a peer's own passes")
    assert b"<forbidden>" not in seen
    assert '"not from its peer":4' in dropped(two)
    sniffer.close()


def test_another_backend_ends_it(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    until(lambda: pid_of(one) is not None)
    one.stop()
    one.settings["network"] = {"Network": "10.244.0.0/16"}
    one.start()
    until(lambda: pid_of(one) is None)
    assert not directory(one).exists()
    until(lambda: "flannel0" not in one.ip("link"))
    assert [peer.problem for peer in one.status.peers] == ['its backend is "udp", ours "vxlan"']


def test_ipv6_is_refused_with_the_way_out(cluster: Cluster) -> None:
    cluster.network = {
        "Network": "10.244.0.0/16",
        "EnableIPv6": True,
        "IPv6Network": "fd00:244::/48",
        "Backend": {"Type": "udp"},
    }
    node = cluster.node(1, ipv6=True).launch()
    until(lambda: 'Backend.Type: "udp" does not carry IPv6; leave out EnableIPv6, or use vxlan' in node.log)
