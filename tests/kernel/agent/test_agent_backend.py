"""A backend with a process of its own, wired into real agents: the process is configured, outlives them, and is cleaned up."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fake_backend import FAKE, FakeProcess, is_running
from tests.kernel.agent.cluster import Cluster, Node
from tests.waiting import until

from percale.backend.state_dir import BACKEND_STATE

FAKE_PERCALE = Path(__file__).parents[2] / "fake_backend.py"


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[tuple[Node, Node]]:
    cluster.network = {"Network": "10.244.0.0/16", "Backend": {"Type": FAKE}}
    one, two = cluster.node(1), cluster.node(2)
    for node in (one, two):
        node.program = (sys.executable, str(FAKE_PERCALE))
        node.start()
    yield one, two
    for node in (one, two):
        if (pid := process_of(node).pid) is not None:
            os.kill(pid, signal.SIGKILL)


def process_of(node: Node) -> FakeProcess:
    return FakeProcess(node.directory / "state" / BACKEND_STATE / FAKE)


def peers_of(node: Node) -> list[str]:
    """Those that its process is configured for."""
    peers: list[str] = json.loads(process_of(node).config.read_text())["peers"]
    return peers


def test_its_process_is_configured_and_outlives_the_agent(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    until(lambda: peers_of(one) == ["n2"] and peers_of(two) == ["n1"])
    assert [peer.reached for peer in one.status.peers] == [True]
    assert "9999" in one.sh("nft", "list", "set", "ip", "percale", "tunnels")
    assert "192.168.0.2" in one.sh("nft", "list", "set", "ip", "percale", "peers")
    pid = process_of(one).pid
    assert pid is not None
    one.stop(signal.SIGKILL)
    one.start()
    assert process_of(one).pid == pid
    assert one.percale("agent", "--cleanup", "--config", str(one.write_config())).returncode == 2, "an agent runs"
    one.stop()
    done = one.percale("agent", "--cleanup", "--config", str(one.write_config()))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed {one.directory / 'state' / BACKEND_STATE / FAKE}" in done.stdout
    until(lambda: not is_running(pid))
    until(lambda: peers_of(two) == [])


def test_a_killed_process_is_started_again(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    pid = until(lambda: process_of(one).pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: process_of(one).pid not in (None, pid))
    assert one.status.problems == ()


def test_another_backend_ends_it(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    pid = until(lambda: process_of(one).pid)
    one.stop()
    one.settings["network"] = {"Network": "10.244.0.0/16"}
    one.start()
    until(lambda: not is_running(pid))
    assert not (one.directory / "state" / BACKEND_STATE / FAKE).exists()
