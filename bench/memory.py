"""An agent's resident memory with 5,000 nodes and 10,000 pods in its store, after all peers are in the kernel."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bench.decode import pod
from bench.rows import PERCALE, Row, at_most, run

NODES = 5000
PODS = 10_000


def _lease(number: int) -> dict[str, object]:
    subnet = IPv4Network((0x0A000000 + (number << 8), 24))
    return {
        "apiVersion": "percale.io/v1alpha1",
        "kind": "SubnetLease",
        "metadata": {"name": str(subnet).replace("/", "-")},
        "spec": {
            "node": f"node{number}",
            "subnet": str(subnet),
            "publicIP": str(IPv4Address(0xAC100000 + number)),
            "backendType": "vxlan",
            "backendData": {
                "VNI": 1,
                "VtepMAC": f"0a:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
            },
        },
    }


def _node(number: int) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node{number}", "labels": {"zone": f"z{number % 3}"}},
    }


def _fill(store: Path) -> None:
    leases = [_lease(number) for number in range(1, NODES + 1)]
    nodes = [_node(number) for number in range(1, NODES + 1)]
    pods = [pod(number) for number in range(PODS)]
    for kind, objects in (("leases", leases), ("nodes", nodes), ("pods", pods)):
        for part in range(0, len(objects), 100):
            document = {"apiVersion": "v1", "kind": "List", "items": objects[part : part + 100]}
            (store / f"{kind}-{part:05d}.json").write_text(json.dumps(document))


def measure() -> Iterator[Row]:
    """One agent, from its start until every route is there."""
    run("ip", *["link", "add", "mem0", "up", "type", "veth", "peer", "name", "mem1"])
    run("ip", *["link", "set", "mem1", "up"])
    run("ip", *["addr", "add", "172.31.255.1/12", "dev", "mem0"])
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "store").mkdir()
        _fill(directory / "store")
        config = {
            "node": "me",
            "store": f"files:{directory / 'store'}",
            "network": {"Network": "10.0.0.0/8", "SubnetLen": 24},
            "iface": ["mem0"],
            "stateDir": str(directory / "state"),
            "runDir": str(directory / "run"),
            "http": f"unix:{directory}/http.sock",
            "cni": {"confDir": str(directory / "net.d"), "socket": str(directory / "cni.sock")},
        }
        file = directory / "agent.yaml"
        file.write_text(json.dumps(config))
        start = time.perf_counter()
        with (
            (directory / "agent.log").open("w") as log,
            subprocess.Popen([PERCALE, "agent", "--config", str(file)], stderr=log) as agent,
        ):
            try:
                _wait(agent, directory / "agent.log")
                took = time.perf_counter() - start
                status = Path(f"/proc/{agent.pid}/status").read_text()
            finally:
                agent.terminate()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        assert peak is not None
        yield at_most("agent start to 5,000 routes", "s", [took], 5)
        yield at_most("agent RSS, 5,000 nodes and 10,000 pods", "MiB", [int(found[1]) / 1024], 120)
        yield at_most("the same, peak", "MiB", [int(peak[1]) / 1024], 120)
    run("ip", "link", "del", "mem0")


def _wait(agent: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while run("ip", "route", "show", "proto", "112").count("\n") < NODES:
        if time.monotonic() > deadline or agent.poll() is not None:
            raise RuntimeError(f"the agent did not program its peers: {log.read_text()}")
        time.sleep(0.1)
