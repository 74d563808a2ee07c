"""Nodes as namespaces on one switch, each with a real agent process, over one directory of objects.

switch: br0 192.168.0.254/24, fd00::254/64
  ├─ n1: eth0 192.168.0.1/24, fd00::1/64 ── percale agent ── pods
  └─ n2: eth0 192.168.0.2/24, …
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tests.etcd_server import EtcdServer
from tests.kernel.conftest import wait_added
from tests.kernel.inside import inside
from tests.kernel.pings import Pings, pinging
from tests.waiting import PATIENCE, until

from percale.agent.config.settings import AgentConfig
from percale.agent.http import client
from percale.agent.status import Status
from percale.cni.conflist import newest_version
from percale.errors import AgentError
from percale.kernel.netns import create_namespace, delete_namespace
from percale.model.manifest.encode import to_json
from percale.model.meta import Object

NETNS = Path("/run/netns")
BIN = Path(sys.executable).parent
_START = 90.0
"""Seconds; the imports of an agent's start alone take ten where thirty others want the CPU."""
DUAL = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
"""A network of both families."""


def sh(namespace: str, *command: str, check: bool = True) -> str:
    """A command's output, run in a namespace."""
    done = subprocess.run(
        ["nsenter", f"--net={NETNS / namespace}", *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    wait_added(" ".join(command), partial(inside, NETNS / namespace))
    return done.stdout


@dataclass
class Pod:
    """A namespace, wired by the node's agent through the real plugin."""

    node: Node
    name: str
    addresses: tuple[str, ...] = ()
    runtime: dict[str, Any] = field(default_factory=dict)
    """The plugin's runtimeConfig."""
    ifname: str = "eth0"

    @property
    def container(self) -> str:
        return f"container-{self.name}"

    def launch(self, command: str) -> subprocess.Popen[str]:
        """Run the plugin as the runtime does."""
        conflist = json.loads((self.node.directory / "net.d" / "10-percale.conflist").read_text())
        configuration = {"name": conflist["name"], "cniVersion": newest_version(conflist), **conflist["plugins"][0]}
        if self.runtime:
            configuration["runtimeConfig"] = self.runtime
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": str(NETNS / self.name),
            "CNI_IFNAME": self.ifname,
            "CNI_PATH": str(self.node.directory / "bin"),
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name}",
        }
        plugin = subprocess.Popen(
            [self.node.directory / "bin" / "percale-cni"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        assert plugin.stdin is not None
        plugin.stdin.write(json.dumps(configuration))
        plugin.stdin.close()
        plugin.stdin = None
        return plugin

    def cni(self, command: str) -> dict[str, Any]:
        """The plugin's answer; its error fails the test."""
        plugin = self.launch(command)
        output = plugin.communicate(timeout=60)[0]
        assert plugin.returncode == 0, output
        return dict(json.loads(output)) if output else {}

    def add(self) -> Pod:
        self.node.cluster.namespace(self.name)
        result = self.cni("ADD")
        self.addresses = tuple(entry["address"].partition("/")[0] for entry in result["ips"])
        return self

    def reaches(self, address: str) -> bool:
        return bool(self._ping(address, "-c1", "-W1").returncode == 0)

    def _ping(self, address: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--net={NETNS / self.name}", "ping", "-n", "-q", *options, address]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def pinging(self, address: str) -> AbstractContextManager[Pings]:
        """Meanwhile."""
        return pinging(NETNS / self.name, address)


@dataclass
class Node:
    """One node and its agent."""

    cluster: Cluster
    name: str
    directory: Path
    settings: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    pods: list[Pod] = field(default_factory=list)
    program: tuple[str, ...] = (str(BIN / "percale"),)

    @property
    def config(self) -> AgentConfig:
        return msgspec.convert(self.settings, AgentConfig)

    @property
    def http(self) -> str:
        return str(self.settings["http"])

    def sh(self, *command: str, check: bool = True) -> str:
        return sh(self.name, *command, check=check)

    def ip(self, *arguments: str) -> str:
        return self.sh("ip", *arguments)

    def command(self, *arguments: str) -> list[str]:
        """`percale …` in the node's namespace."""
        return ["nsenter", f"--net={NETNS / self.name}", *self.program, *arguments]

    def percale(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=60)

    def write_config(self) -> Path:
        path = self.directory / "agent.yaml"
        path.write_text(json.dumps(self.settings))  # JSON is YAML
        return path

    def launch(self, *flags: str) -> Node:
        """Start the agent without waiting for it."""
        assert self.process is None or self.process.poll() is not None
        config = self.write_config()
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("agent", "--config", str(config), *flags), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    def start(self, *flags: str) -> Node:
        """Start the agent and wait until it is ready."""
        self.launch(*flags)
        return self.wait_ready()

    def wait_ready(self) -> Node:
        assert self.process is not None
        process = self.process

        def ready() -> bool:
            assert process.poll() is None, f"the agent ended with {process.returncode}:\n{self.log}"
            status = self.ask()
            return status is not None and status.ready

        until(ready, f"{self.name} is ready:\n{self.log}", patience=_START)
        return self

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def ask(self) -> Status | None:
        try:
            return client.decode(client.fetch(self.http))
        except AgentError:
            return None

    @property
    def status(self) -> Status:
        status = self.ask()
        assert status is not None, self.log
        return status

    @property
    def cpu_seconds(self) -> float:
        """Of the agent, and of programs that it has started and that have ended."""
        fields = Path(f"/proc/{self.status.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    @property
    def subnet(self) -> str:
        return self.status.subnets[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the agent; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)

    def pod(self, name: str, **runtime: Any) -> Pod:
        return Pod(self, name, runtime=runtime).add()


@dataclass
class Cluster:
    """Made by the `cluster` fixture."""

    directory: Path
    network: dict[str, Any] = field(default_factory=lambda: {"Network": "10.244.0.0/16"})
    nodes: dict[str, Node] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def write(self, name: str, *documents: Object | Mapping[str, Any]) -> Path:
        """A file of the store, replaced at once as tools do."""
        texts = [to_json(each) if isinstance(each, Object) else json.dumps(each).encode() for each in documents]
        path, draft = self.store / f"{name}.yaml", self.directory / f"{name}.draft"
        draft.write_bytes(b"\n---\n".join(texts))
        draft.rename(path)
        return path

    def open(self) -> Cluster:
        self.store.mkdir()
        self.namespace("switch")
        sh("switch", "ip", "link", "add", "br0", "type", "bridge")
        sh("switch", "ip", "link", "set", "br0", "up")
        sh("switch", "ip", "address", "add", "192.168.0.254/24", "dev", "br0")
        sh("switch", "ip", "address", "add", "fd00::254/64", "dev", "br0", "nodad")
        return self

    def namespace(self, name: str) -> None:
        create_namespace(NETNS / name)
        self.namespaces.append(name)

    def cable(self, name: str, device: str, number: int, *, ipv4: bool = True, ipv6: bool = True) -> None:
        """Plug another device of a node into the switch. Its MAC is as constant as a real one's: neighbours remember it."""
        port, mac = f"{name}-{device}", f"02:00:00:00:01:{number:02x}"
        peer = ("peer", "name", device, "address", mac, "netns", str(NETNS / name))
        sh("switch", "ip", "link", "add", port, "type", "veth", *peer)
        sh("switch", "ip", "link", "set", port, "master", "br0", "up")
        sh(name, "ip", "link", "set", device, "up")
        if ipv4:
            sh(name, "ip", "address", "add", f"192.168.0.{number}/24", "dev", device)
        if ipv6:
            sh(name, "ip", "address", "add", f"fd00::{number:x}/64", "dev", device, "nodad")

    def node(self, number: int, *, ipv4: bool = True, ipv6: bool = False, **settings: Any) -> Node:
        """Node `n<number>`, its agent not started yet."""
        name = f"n{number}"
        self.namespace(name)
        sh(name, "ip", "link", "set", "lo", "up")
        self.cable(name, "eth0", number, ipv4=ipv4, ipv6=ipv6)
        if ipv4:
            sh(name, "ip", "route", "add", "default", "via", "192.168.0.254")
        if ipv6:
            sh(name, "ip", "-6", "route", "add", "default", "via", "fd00::254")
        directory = self.directory / name
        directory.mkdir()
        base: dict[str, Any] = {
            "node": name,
            "store": f"files:{self.store}",
            "network": self.network,
            "stateDir": str(directory / "state"),
            "runDir": str(directory / "run"),
            "subnetFile": str(directory / "subnet.env"),
            "http": f"unix:{directory}/http",
            "cni": {
                "confDir": str(directory / "net.d"),
                "binDir": str(directory / "bin"),
                "socket": str(directory / "cni.sock"),
            },
        }
        node = self.nodes[name] = Node(self, name, directory, {**base, **settings})
        return node

    def two_pods(self, **settings: Any) -> tuple[Pod, Pod]:
        """On two nodes, n1 and n2, which have started with these settings; they reach each other."""
        one, two = self.node(1, **settings).start(), self.node(2, **settings).start()
        a, b = one.pod("a"), two.pod("b")
        for address in b.addresses:
            until(lambda address=address: a.reaches(address))  # type: ignore[misc]
        return a, b

    def close(self) -> None:
        """What the agents logged is shown when the test failed."""
        for node in self.nodes.values():
            print(f"{node.name}: {node.ask()}\n{node.log}")
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        for name in reversed(self.namespaces):
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)  # a backend's process, which outlives its agent
            delete_namespace(NETNS / name)


@contextmanager
def etcd_of(cluster: Cluster) -> Iterator[EtcdServer]:
    """At the switch, which all nodes reach."""
    directory = cluster.directory / "etcd"
    directory.mkdir()
    server = EtcdServer(directory, host="192.168.0.254", enter=["nsenter", f"--net={NETNS / 'switch'}"])
    server.start()
    try:
        yield server
    finally:
        server.stop()
