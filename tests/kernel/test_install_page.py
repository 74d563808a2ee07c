"""docs/install.md without Kubernetes: its commands, typed on a host with systemd and etcd, in the page's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.systemd_machine import Machine
from tests.kernel.test_systemd import DOCKER, DOCKERD, ETCD, ROOT, needs_systemd
from tests.page_commands import blocks

pytestmark = needs_systemd
STEPS = blocks("etcd")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Nothing of Percale but /opt/percale."""
    units = tmp_path / "units"
    units.mkdir()
    (units / "test.target").write_text("[Unit]\nWants=etcd.service\n")
    (units / "etcd.service").write_text(ETCD)
    (units / "docker.service").write_text(DOCKER + DOCKERD.replace("ExecStart=\n", "", 1))
    for service, text in (("percale", "[Unit]\nDefaultDependencies=no\n"), ("docker", DOCKERD)):
        (units / f"{service}.service.d").mkdir()
        (units / f"{service}.service.d" / "zz-test.conf").write_text(text)
    made = Machine(tmp_path, units, ROOT / ".venv")
    yield made
    made.close()


def test_from_nothing_to_a_network_and_back(machine: Machine) -> None:
    before = machine.run(
        "sh", "-c", "ip link; nft list ruleset; ls /etc/cni/net.d /var/lib/percale 2>/dev/null || true"
    )
    removal = len(STEPS) - 1
    assert "--cleanup" in STEPS[removal]
    machine.run("bash", "-ec", f"cd {ROOT}\n" + "".join(STEPS[:removal]))
    assert machine.state("percale.service") == machine.state("docker.service") == "active"
    assert "--bip=10.244." in machine.run("cat", "/run/docker-started")
    machine.run("ip", "link", "show", "flannel.1")
    machine.run("bash", "-ec", f"cd {ROOT}\n" + STEPS[removal])
    after = machine.run("sh", "-c", "ip link; nft list ruleset; ls /etc/cni/net.d /var/lib/percale 2>/dev/null || true")
    assert "flannel.1" not in after
    assert "percale" not in after
    assert "table" not in after.replace(before, "")
    assert machine.run("systemctl", "show", "-p", "LoadState", "--value", "percale.service").strip() != "loaded"


def test_the_page_has_steps_for_each_way() -> None:
    assert len(STEPS) >= 7
    assert len(blocks("kubectl")) >= 8
