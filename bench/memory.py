"""An agent's resident memory with 5,000 nodes and 10,000 pods in its store, after all peers are in the kernel."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bench import agents
from bench.decode import pod
from bench.rows import Row, at_most, run

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


def measure() -> Iterator[Row]:
    """One agent, until all routes are in the kernel."""
    with agents.interface("172.31.255.1/12"), tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        numbers = range(1, NODES + 1)
        for kind, objects in (
            ("lease", map(_lease, numbers)),
            ("node", map(_node, numbers)),
            ("pod", map(pod, range(PODS))),
        ):
            agents.write_lists(directory / "store", kind, [json.dumps(each).encode() for each in objects])
        network = {"Network": "10.0.0.0/8", "SubnetLen": 24}
        with agents.running(
            directory, "me", network, _has_all_routes, 0.1, http=f"unix:{directory}/http.sock"
        ) as agent:
            yield at_most("agent start to 5,000 routes", "s", [agent.ready], 5)
            yield at_most("agent RSS, 5,000 nodes and 10,000 pods", "MiB", [agent.mebibytes("VmRSS")], 120)
            yield at_most("the same, peak", "MiB", [agent.mebibytes("VmHWM")], 120)


def _has_all_routes() -> bool:
    return run("ip", "route", "show", "proto", "112").count("\n") >= NODES
