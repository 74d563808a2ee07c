"""The commands of docs/agent.md, typed one after the other in a network of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "agent.md"
PREPARE = """
set -e
mount -t tmpfs none /run
ip link set lo up
ip link add eth0 type veth peer name other
ip address add 192.168.0.1/24 dev eth0
ip link set eth0 up
ip link set other up
ip route add default via 192.168.0.254
"""


def documented() -> list[str]:
    """The lines of the first block, without their explanations."""
    block = DOCUMENT.read_text().split("```")[1]
    return [re.split(r" {3,}", line)[0] for line in block.strip().splitlines()]


def test_the_documented_commands(tmp_path: Path) -> None:
    store, config = tmp_path / "store", tmp_path / "agent.yaml"
    store.mkdir()
    config.write_text(
        f"node: n1\nstore: files:{store}\nnetwork: {{Network: 10.244.0.0/16}}\nstateDir: {tmp_path}/state\n"
        f"cni: {{confDir: {tmp_path}/net.d}}\n"
    )
    run, status, verbose, cleanup = (line.replace("/etc/percale/agent.yaml", str(config)) for line in documented())
    script = f"""{PREPARE}
until_ready() {{ for i in $(seq 300); do test -e {tmp_path}/net.d/10-percale.conflist && return; sleep 0.05; done; exit 9; }}
{run} & until_ready
{status}
kill $!; wait $!
rm {tmp_path}/net.d/10-percale.conflist
ip link delete flannel.1
{verbose} & until_ready
kill $!; wait $!
{cleanup}
ip -br link
"""
    done = subprocess.run(
        ["unshare", "-Urnmpf", "--kill-child", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "n1, ready" in done.stdout
    assert "+ ip link add flannel.1 " in done.stderr
    assert "gave back 10.244.1.0-24" in done.stdout
    assert "ip link delete flannel.1" in done.stdout
    assert "removed /run/flannel/subnet.env" in done.stdout
    assert "flannel" not in done.stdout.rpartition("removed ")[2].partition("\n")[2]
