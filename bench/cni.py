"""CNI ADD and DEL, exec to exit: `percale-cni` with a real agent, against Debian's bridge + host-local + portmap chain.

The runtime's part (creating each pod's namespace) is not timed. Without host ports, then with one for each pod.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import agents
from bench.rows import Row, ratio
from percale.kernel.netns import create_namespace, delete_namespace

ROUNDS = 60
REFERENCE = "/usr/lib/cni"

Plugin = Callable[[str, str, str, dict[str, Any]], float]
"""Verb, container, namespace, runtimeConfig; milliseconds."""


def execute(
    binary: str, verb: str, container: str, netns: str, config: dict[str, Any], arguments: str = ""
) -> tuple[float, Any]:
    """Milliseconds, and the plugin's result. Raises RuntimeError. `arguments` are CNI_ARGS."""
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": REFERENCE,
        "CNI_ARGS": arguments,
        "PATH": os.environ["PATH"],
    }
    text = json.dumps(config)
    start = time.perf_counter()
    done = subprocess.run([binary], input=text, capture_output=True, text=True, env=environment, check=False)
    took = (time.perf_counter() - start) * 1000
    if done.returncode != 0:
        raise RuntimeError(f"{binary} {verb}: {done.stdout}{done.stderr}")
    return took, json.loads(done.stdout) if done.stdout else None


def _reference(directory: Path) -> Plugin:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]], "dataDir": str(directory / "host-local")}
    base = {"cniVersion": "0.4.0", "name": "reference"}
    bridge = {**base, "type": "bridge", "bridge": "ref0", "isGateway": True, "ipam": ipam}
    portmap = {**base, "type": "portmap", "capabilities": {"portMappings": True}}
    results: dict[str, Any] = {}

    def plugin(verb: str, container: str, netns: str, runtime_config: dict[str, Any]) -> float:
        if verb == "ADD":
            first, results[container] = execute(f"{REFERENCE}/bridge", verb, container, netns, bridge)
            second, _ = execute(
                f"{REFERENCE}/portmap",
                verb,
                container,
                netns,
                {**portmap, **runtime_config, "prevResult": results[container]},
            )
            return first + second
        before = {"prevResult": results.pop(container)}
        second, _ = execute(f"{REFERENCE}/portmap", verb, container, netns, {**portmap, **runtime_config, **before})
        first, _ = execute(f"{REFERENCE}/bridge", verb, container, netns, {**bridge, **before})
        return first + second

    return plugin


@contextlib.contextmanager
def _ours(directory: Path) -> Iterator[Plugin]:
    conflists, binaries = directory / "net.d", directory / "bin"
    for folder in (conflists, binaries, directory / "store"):
        folder.mkdir()
    network = {"Network": "10.98.0.0/16", "SubnetLen": 20, "Backend": {"Type": "vxlan"}}
    binary = str(binaries / "percale-cni")
    with (
        agents.interface("172.30.0.1/24"),
        agents.running(
            directory,
            "node1",
            network,
            lambda: any(conflists.glob("*.conflist")),
            cni={"binDir": str(binaries)},
        ),
    ):
        conflist = json.loads(next(conflists.glob("*.conflist")).read_text())
        ours = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}
        yield lambda verb, container, netns, config: execute(binary, verb, container, netns, {**ours, **config})[0]


def measure() -> Iterator[Row]:
    """ADD and DEL of one pod after the other, in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with _ours(directory) as ours:
            plugins = (ours, _reference(directory))
            adds, dels = _rounds(plugins, host_ports=False)
            yield ratio("CNI ADD, against bridge + host-local + portmap", "ms", *adds, 1.0, most=True)
            yield ratio("CNI DEL, against bridge + host-local + portmap", "ms", *dels, 0.6, most=True)
            adds, dels = _rounds(plugins, host_ports=True)
            yield ratio("CNI ADD with one hostPort, against the same", "ms", *adds, 0.4, most=True)
            yield ratio("CNI DEL with one hostPort, against the same", "ms", *dels, 0.4, most=True)


Times = tuple[list[float], list[float]]
"""Ours, theirs."""


def _rounds(plugins: Sequence[Plugin], *, host_ports: bool) -> tuple[Times, Times]:
    """ADDs and DELs of both."""
    adds: Times = ([], [])
    dels: Times = ([], [])
    for number in range(ROUNDS):
        for side, plugin in enumerate(plugins):
            container = f"{'ours' if side == 0 else 'theirs'}{number}"
            netns = f"/run/netns/{container}"
            mapping = {"hostPort": 20000 + 1000 * side + number, "containerPort": 80, "protocol": "tcp"}
            runtime_config = {"runtimeConfig": {"portMappings": [mapping]}} if host_ports else {}
            create_namespace(netns)
            adds[side].append(plugin("ADD", container, netns, runtime_config))
            dels[side].append(plugin("DEL", container, netns, runtime_config))
            delete_namespace(netns)
    return adds, dels
