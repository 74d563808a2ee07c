"""What the agent keeps on disk: the lock, its subnet, its mark."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from percale.agent.pid_file import single_agent
from percale.agent.state import NodeState
from percale.agent.systemd import notify
from percale.errors import AlreadyRunning, StateError
from percale.model.subnet_lease import NodeSubnets

SUBNETS = NodeSubnets(IPv4Network("10.244.1.0/24"), IPv6Network("fd00:1::/64"))


def test_the_subnet_and_the_mark_outlive_the_agent(tmp_path: Path) -> None:
    first = NodeState(tmp_path / "state")
    assert first.subnets is None
    first.save_subnets(SUBNETS)
    first.save_macs({"flannel.1": "12:c6:65:89:b4:e3"})
    again = NodeState(tmp_path / "state")
    assert (again.machine, again.subnets, again.macs) == (first.machine, SUBNETS, {"flannel.1": "12:c6:65:89:b4:e3"})
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["node.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"machine": 3}', b'{"machine": "m", "subnet": "10.0.0.1/24"}'])
def test_a_broken_state_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.json").write_bytes(content)
    with pytest.raises(StateError, match=r"node\.json: not a state file .*; delete it"):
        NodeState(tmp_path)
    assert (tmp_path / "node.json").read_bytes() == content


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"cannot be written: .*; choose another directory with --state-dir"):
        NodeState(tmp_path / "file" / "state")


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NodeState(tmp_path).save_subnets(SUBNETS)
    before = (tmp_path / "node.json").read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device"):
        NodeState(tmp_path)
    assert (tmp_path / "node.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]


def test_a_second_agent_reports_the_pid_of_the_first(tmp_path: Path) -> None:
    with single_agent(tmp_path / "run"):
        with pytest.raises(AlreadyRunning) as caught, single_agent(tmp_path / "run"):
            pass
        assert caught.value.pid == os.getpid()
    with single_agent(tmp_path / "run"):
        assert (tmp_path / "run" / "agent.pid").read_text() == f"{os.getpid()}\n"


def test_a_stale_pid_file_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "agent.pid").write_text("999999999999\n")
    with single_agent(tmp_path):
        assert (tmp_path / "agent.pid").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@percale-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        receiver.settimeout(5)
        notify("READY=1", "STATUS=serving pods")
        assert receiver.recv(1000) == b"READY=1\nSTATUS=serving pods"


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert notify("READY=1") is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("way", ["everybody's", "somebody's"])
def test_a_directory_in_which_others_may_write_is_refused(tmp_path: Path, way: str) -> None:
    if way == "somebody's" and os.geteuid() == 0:  # nobody else can give it away
        os.chown(tmp_path, 4711, -1)
    else:
        tmp_path.chmod(0o777)
    with pytest.raises(StateError, match=r"others may write there; chown and chmod it, or .* --state-dir"):
        NodeState(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nobody_else_can_lock_an_agents_pid_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.pid"
    file.touch(0o644)
    with single_agent(tmp_path):
        assert file.stat().st_mode & 0o777 == 0o600
