"""`percale preflight` as an operator types it, on a host of a namespace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from docs.answers import documents
from tests.e2e.conftest import PERCALE
from tests.kernel.conftest import Space
from tests.kernel.host_checks import CheckedNode
from tests.unit.cli.conftest import run

from percale.checks.registry import LAB, NODE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(new_space: Callable[[], Space], tmp_path: Path) -> CheckedNode:
    return CheckedNode(new_space(), new_space(), tmp_path)


def preflight(node: CheckedNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [f"PERCALE_CNI_CONF_DIR={node.conflists}", f"PERCALE_RUN_DIR={node.directory}/run"]
    command = ["nsenter", f"--net={node.space.path}", "env", *settings, str(PERCALE), "preflight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_healthy_host(node: CheckedNode) -> None:
    done = preflight(node)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert head.split() == ["CHECK", "RESULT", "EVIDENCE"]
    assert {row.split()[1] for row in rows if row.split()[0] != "clock"} == {"ok"}


def test_what_is_wrong_is_below_the_table_with_what_to_type(node: CheckedNode) -> None:
    node.space.shell("sysctl -qw net.ipv4.ip_forward=0; iptables -P FORWARD DROP")
    done = preflight(node)
    assert done.returncode == 1
    assert (
        "\npod-filter: pods reach nothing beyond their node\n  type: iptables -I FORWARD -s 10.244.0.0/16 -j ACCEPT\n"
        in done.stdout
    )
    assert "\n  type: sysctl -w net.ipv4.ip_forward=1\n" in done.stdout
    for line in done.stdout.splitlines():
        if line.startswith("  type: ") and "timedatectl" not in line:
            node.space.shell(line.removeprefix("  type: "))
    done = preflight(node, "-o", "json", "--strict")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert documents("preflight", document)
    assert (document["error"], document["warning"]) == (0, 0)


def test_warnings_are_errors_when_strict(node: CheckedNode) -> None:
    node.space.shell("sysctl -qw net.ipv4.ip_forward=0")
    assert preflight(node).returncode == 0
    assert preflight(node, "--strict").returncode == 1


def test_the_network_is_that_of_the_agent(node: CheckedNode, tmp_path: Path) -> None:
    (tmp_path / "net-conf.json").write_text(
        '{"Network": "10.7.0.0/16", "Backend": {"Type": "vxlan", "Port": 4789, "MTU": 9000}}'
    )
    done = preflight(node, "--network-file", str(tmp_path / "net-conf.json"))
    assert done.returncode == 1
    assert "Backend.MTU is 9000, that of eth0 is 1500" in done.stdout
    assert "UDP 4789 is free" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--network-file", "/nosuch"), "percale: /nosuch: cannot be read: No such file or directory"),
        (("--config", "/nosuch"), "percale: /nosuch: cannot be read: No such file or directory"),
        (("--store", "nosuch:"), "percale: --store: expected "),
    ],
)
def test_what_cannot_be_used_is_one_error(node: CheckedNode, arguments: tuple[str, ...], words: str) -> None:
    done = preflight(node, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(words)
    assert len(done.stderr.splitlines()) == 1


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    line = "percale: preflight tries the kernel's features, which needs root; sudo percale preflight"
    assert run(capsys, "preflight") == (2, [line])


def test_the_page_has_every_check() -> None:
    page = (ROOT / "docs" / "preflight.md").read_text()
    assert [check.name for check in (*NODE, *LAB) if f"`{check.name}`" not in page] == []
