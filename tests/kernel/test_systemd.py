"""The units of deploy/systemd under a real systemd: order, readiness, docker's options, and a sandbox in which all works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.systemd_machine import SYSTEMD, Machine
from tests.waiting import until

from percale.agent.config import loader

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
TARGET = """\
[Unit]
Wants=etcd.service percale.service docker.service
"""
ETCD = """\
[Unit]
DefaultDependencies=no
[Service]
Type=notify
StateDirectory=etcd
ExecStart=etcd --data-dir /var/lib/etcd --unsafe-no-fsync
"""
DOCKER = """\
[Unit]
DefaultDependencies=no
"""
DOCKERD = """\
[Service]
ExecStart=
ExecStart=/bin/sh -c 'echo "$DOCKER_OPTS" > /run/docker-started; exec sleep 1000'
"""
"""In place of docker, which is not here."""

PERCALE = "/opt/percale/bin/percale"
STORE = "etcd:http://127.0.0.1:2379"

needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0
    or not SYSTEMD.exists()
    or "0 4294967295" not in " ".join(Path("/proc/self/uid_map").read_text().split()),
    reason="needs root and systemd's program",
)
pytestmark = needs_systemd


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    units = tmp_path / "units"
    shutil.copytree(UNITS, units)
    (units / "test.target").write_text(TARGET)
    (units / "etcd.service").write_text(ETCD)
    (units / "docker.service").write_text(DOCKER)
    (units / "docker.service.d" / "zz-test.conf").write_text(DOCKERD)
    # Of the units that these stand on, no more than the order matters here.
    (units / "percale.service.d" / "zz-test.conf").write_text("[Unit]\nDefaultDependencies=no\n")
    everything = (units / "percale.env").read_text().replace("SERVICES_ENABLED=false", "SERVICES_ENABLED=true")
    (units / "percale.env").write_text(everything)
    made = Machine(tmp_path, units, ROOT / ".venv")
    yield made
    made.close()


def test_etcd_percale_docker_and_a_pod(machine: Machine) -> None:
    until(lambda: machine.state("etcd.service") == "active", "etcd runs")
    until(lambda: machine.state("percale.service") == "activating", "the agent waits for a network")
    assert machine.state("docker.service") == "inactive", "and docker for the agent"
    (machine.directory / "net-conf.json").write_text('{"Network": "10.244.0.0/16"}')
    machine.run(PERCALE, "etcd", "init", "--store", STORE, f"{machine.directory}/net-conf.json")
    until(lambda: machine.state("docker.service") == "active", "docker runs")
    assert machine.state("percale.service") == "active"
    (subnet,) = json.loads(machine.run(PERCALE, "status", "-o", "json"))["subnets"]
    start = subnet.removesuffix("0/24")
    options = [f"--bip={start}1/24", "--ip-masq=false", "--mtu=1450"]
    assert machine.run("cat", "/run/docker-started").split() == options

    address = add_pod(machine, "one")
    assert address.startswith(start)
    machine.run("ip", "netns", "exec", "one", "ping", "-c1", "-W2", "192.168.7.1")
    assert "10.244.0.0/16" in machine.run("nft", "list", "table", "ip", "percale")
    machine.run("nft", "list", "table", "inet", "percale-services")

    before = machine.run("systemctl", "show", "-p", "MainPID", "--value", "percale.service").strip()
    machine.run("systemctl", "restart", "percale.service")
    after = machine.run("systemctl", "show", "-p", "MainPID", "--value", "percale.service").strip()
    assert after != before
    assert "1 pod\n" in machine.run("systemctl", "show", "-p", "StatusText", "percale.service")
    machine.run("ip", "netns", "exec", "one", "ping", "-c1", "-W2", "192.168.7.1")

    # The sandbox: what an agent that is taken over could not do.
    inside = ["nsenter", "-t", after, "-m"]
    for path in ("/etc", "/usr/bin", "/opt/percale/bin", "/root"):
        done = machine.run(*inside, "sh", "-c", f"touch {path}/planted 2>&1 || true")
        assert "Read-only file system" in done, path
    status = machine.run("cat", f"/proc/{after}/status")
    bounding = re.search(r"CapBnd:\s*(\w+)", status)
    assert bounding is not None
    assert int(bounding[1], 16) == sum(1 << number for number in (10, 12, 13, 19, 21))
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def add_pod(machine: Machine, name: str) -> str:
    """By the plugin that the agent has installed, as a runtime does; returns the pod's address."""
    machine.run("ip", "netns", "add", name)
    config = json.dumps({"cniVersion": "1.0.0", "name": "percale", "type": "percale-cni"})
    variables = (
        f"CNI_COMMAND=ADD CNI_CONTAINERID={name} CNI_NETNS=/run/netns/{name} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin"
    )
    machine.run("cat", "/etc/cni/net.d/10-percale.conflist")
    answer = machine.run("sh", "-ec", f"echo '{config}' | env {variables} /opt/cni/bin/percale-cni")
    return str(json.loads(answer)["ips"][0]["address"])


def test_the_units_have_no_mistake(tmp_path: Path) -> None:
    """Directives that no systemd knows, and commands that are not there, are."""
    unit = tmp_path / "percale.service"
    unit.write_text((UNITS / "percale.service").read_text().replace("/opt/percale/bin/percale", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_variable_of_the_environment_file_is_a_setting(tmp_path: Path) -> None:
    lines = [line.lstrip("#") for line in (UNITS / "percale.env").read_text().splitlines()]
    variables = dict(line.split("=", 1) for line in lines if line.startswith("PERCALE_"))
    assert len(variables) >= 5
    assert loader.load(None, variables, {}).store == STORE
