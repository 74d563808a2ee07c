"""Percale's agent against flanneld, over one etcd: 1,000 peers from cold, and a new pod's first ping after the start.

    n1: eth0 172.31.0.1/12, etcd ── veth ── eth0 172.31.0.2/12 :n2

In the first part n2 is nobody, and the peers are leases alone. Every sample has fresh namespaces and a copy of etcd's data.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bench.programs import built
from bench.rows import PERCALE, Row, in_turn, ratio, run
from percale.kernel.netns import NetnsThread, create_namespace, delete_namespace

LEASES = 1000
ROUNDS = 3
NETNS = Path("/run/netns")
PLUGINS = "/usr/lib/cni"
ETCD = "http://172.31.0.1:2379"
_PREFIX = "/coreos.com/network"
_PATIENCE = 60.0
_GOALS = {"vxlan": 1.0, "host-gw": 0.5}
"""Of the 1,000 peers' time."""


def _lease(number: int, backend: str) -> tuple[str, str]:
    value: dict[str, Any] = {
        "PublicIP": str(IPv4Address(0xAC100000 + number)),
        "PublicIPv6": None,
        "BackendType": backend,
    }
    if backend == "vxlan":
        value["BackendData"] = {"VNI": 1, "VtepMAC": f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}"}
    return f"{_PREFIX}/subnets/10.{number >> 8}.{number & 255}.0-24", json.dumps(value, separators=(",", ":"))


def _put(key: str, value: str) -> None:
    pair = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
    urllib.request.urlopen(f"{ETCD}/v3/kv/put", json.dumps(pair).encode(), timeout=10).close()


class _World:
    """Namespaces n1 and n2, and an etcd in n1."""

    def __init__(self, directory: Path, data: Path | None) -> None:
        self.directory = directory
        self._down = contextlib.ExitStack()
        self._data = directory / "etcd"
        if data is not None:
            shutil.copytree(data, self._data)

    def __enter__(self) -> _World:
        for name in ("n1", "n2"):
            create_namespace(NETNS / name)
            self._down.callback(delete_namespace, NETNS / name)
            (self.directory / name).mkdir()
            self.run_in(name, "ip", "link", "set", "lo", "up")
        self.run_in("n1", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", "n2")
        for number in (1, 2):
            self.run_in(f"n{number}", "ip", "address", "add", f"172.31.0.{number}/12", "dev", "eth0")
            self.run_in(f"n{number}", "ip", "link", "set", "eth0", "up")
        peers = "http://127.0.0.1:2380"
        flags = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD, "--listen-peer-urls", peers]
        flags += ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
        self.spawn_in("n1", "etcd", "--data-dir", str(self._data), "--unsafe-no-fsync", "--log-level", "error", *flags)
        health = ("curl", "-sf", "-o", "/dev/null", f"{ETCD}/health")
        _until(lambda: self.succeeds_in("n1", *health))
        return self

    def __exit__(self, *_: object) -> None:
        self._down.close()

    def run_in(self, name: str, *command: str, stdin: str | None = None) -> str:
        return run("nsenter", f"--net={NETNS / name}", *command, stdin=stdin)

    def succeeds_in(self, name: str, *command: str) -> bool:
        return (
            subprocess.run(["nsenter", f"--net={NETNS / name}", *command], capture_output=True, check=False).returncode
            == 0
        )

    def spawn_in(self, name: str, *command: str) -> int:
        """A program until the end of this world; its pid."""
        with (self.directory / name / "log").open("ab") as log:
            process = subprocess.Popen(["nsenter", f"--net={NETNS / name}", *command], stdout=log, stderr=log)
        self._down.callback(process.wait)
        self._down.callback(process.kill)
        return process.pid

    def pod(self, name: str) -> Path:
        create_namespace(NETNS / name)
        self._down.callback(delete_namespace, NETNS / name)
        return NETNS / name


class _Percale:
    """An agent and its plugin."""

    def start(self, world: _World, name: str) -> int:
        directory = world.directory / name
        settings = {  # as deploy/systemd has them: flannel has no Services
            "NODE": name,
            "STORE": f"etcd:{ETCD}",
            "IFACE": "eth0",
            "STATE_DIR": directory / "state",
            "RUN_DIR": directory / "run",
            "SUBNET_FILE": directory / "subnet.env",
            "HTTP": "none",
            "CNI_CONF_DIR": directory / "net.d",
            "CNI_BIN_DIR": directory / "bin",
            "CNI_SOCKET": directory / "cni.sock",
            "SERVICES_ENABLED": "false",
        }
        return world.spawn_in(
            name, "env", *(f"PERCALE_{key}={value}" for key, value in settings.items()), PERCALE, "agent"
        )

    def serves(self, world: _World, name: str) -> bool:
        return (world.directory / name / "net.d" / "10-percale.conflist").exists()

    def add(self, world: _World, name: str, pod: str) -> str:
        plugin = {"cniVersion": "1.0.0", "name": "percale", "type": "percale-cni"}
        return _add(world, name, pod, world.directory / name / "bin" / "percale-cni", plugin)


class _Flannel:
    """flanneld, and the plugins that its own hands over to."""

    def start(self, world: _World, name: str) -> int:
        file = world.directory / name / "subnet.env"
        flags = (f"--etcd-endpoints={ETCD}", "--iface=eth0", "--ip-masq", f"--subnet-file={file}")
        return world.spawn_in(name, str(built("flanneld")), *flags)

    def serves(self, world: _World, name: str) -> bool:
        return (world.directory / name / "subnet.env").exists()

    def add(self, world: _World, name: str, pod: str) -> str:
        lines = (world.directory / name / "subnet.env").read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": env["FLANNEL_SUBNET"].replace(".1/", ".0/")}]],
            "routes": [{"dst": env["FLANNEL_NETWORK"]}],
            "dataDir": str(world.directory / name / "networks"),
        }
        bridge = {"type": "bridge", "isDefaultGateway": True, "hairpinMode": True, "mtu": int(env["FLANNEL_MTU"])}
        plugin = {"cniVersion": "1.0.0", "name": "cbr0", **bridge, "ipam": ipam}
        return _add(world, name, pod, Path(PLUGINS, "bridge"), plugin)


def _add(world: _World, name: str, pod: str, program: Path, plugin: dict[str, Any]) -> str:
    """The pod's address."""
    netns = world.pod(pod)
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod,
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": PLUGINS,
    }
    words = ["env", *(f"{key}={value}" for key, value in variables.items()), str(program)]
    result = json.loads(world.run_in(name, *words, stdin=json.dumps(plugin)))
    return str(result["ips"][0]["address"].partition("/")[0])


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {_PATIENCE:.0f} s")
        time.sleep(0.002)


def _peers_installed(side: _Percale | _Flannel, data: Path) -> float:
    """Seconds from exec to the last peer's route, which comes after its other entries."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, _World(Path(directory), data) as world:
        start = time.perf_counter()
        routes = Path(f"/proc/{side.start(world, 'n1')}/net/route")
        _until(lambda: routes.read_text().count("\t00FFFFFF\t") >= LEASES)
        return time.perf_counter() - start


def _first_ping(side: _Percale | _Flannel, data: Path) -> float:
    """Milliseconds from exec to a new pod's first answer from one of the other node, which is there."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, _World(Path(directory), data) as world:
        side.start(world, "n2")
        _until(lambda: side.serves(world, "n2"))
        other = side.add(world, "n2", "b")
        start = time.perf_counter()
        side.start(world, "n1")
        _until(lambda: side.serves(world, "n1"))
        side.add(world, "n1", "a")
        _until(lambda: world.succeeds_in("a", "ping", "-n", "-q", "-c1", "-W1", other))
        return (time.perf_counter() - start) * 1000


def _prepared(directory: Path, backend: str, leases: int) -> Path:
    """etcd's data."""
    network = {"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.200.0.0", "Backend": {"Type": backend}}

    def fill() -> None:
        _put(f"{_PREFIX}/config", json.dumps(network))
        for number in range(1, leases + 1):
            _put(*_lease(number, backend))

    with _World(directory, None), (NETNS / "n1").open() as entered, closing(NetnsThread(entered.fileno())) as thread:
        thread.run(fill)
    return directory / "etcd"


def _compared(measured: Callable[[_Percale | _Flannel, Path], float], data: Path) -> list[list[float]]:
    return in_turn(ROUNDS, partial(measured, _Percale(), data), partial(measured, _Flannel(), data))


def measure() -> Iterator[Row]:
    """Each in turn."""
    for backend, goal in _GOALS.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            ours, theirs = _compared(_peers_installed, _prepared(Path(directory), backend, LEASES))
        yield ratio(
            f"{LEASES:,} leases in etcd to peers, {backend}, against flanneld", "s", ours, theirs, goal, most=True
        )
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        ours, theirs = _compared(_first_ping, _prepared(Path(directory), "vxlan", 0))
    yield ratio("start to a new pod's first ping, against flanneld", "ms", ours, theirs, 2.0, most=True)
