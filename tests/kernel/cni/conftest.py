"""A node with the CNI part of an agent, and pods that a test adds and deletes as a runtime does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import Space
from tests.waiting import PATIENCE

from percale.cni.wire_format import ask

AGENT = Path(__file__).with_name("agent.py")


class Refused(Exception):
    """The agent's answer was an error."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.code: int = answer["code"]
        super().__init__(answer["msg"] + answer.get("details", ""))


class Node:
    """A namespace, a state directory, and the process of `agent.py` when it runs."""

    def __init__(self, space: Space, directory: Path) -> None:
        self.space = space
        self.directory = directory
        self.wiring = "routed"
        self._process: subprocess.Popen[str] | None = None
        space.shell(
            "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding;"
            "ip address add 192.0.2.1/32 dev lo; ip address add fd00:99::1/128 dev lo"
        )

    def start(self, die: str = "-") -> Node:
        """Start the agent and wait until it serves."""
        assert self._process is None
        command = ["nsenter", f"--net={self.space.path}", sys.executable, str(AGENT), str(self.directory), self.wiring]
        with (self.directory / "log").open("a") as log:
            self._process = subprocess.Popen([*command, die], stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self.log
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent."""
        assert self._process is not None
        self._process.send_signal(number)
        self.wait()

    def wait(self) -> None:
        """The agent ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(timeout=PATIENCE)
        self._process.stdout.close()
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def devices(self) -> list[str]:
        """Everything of pods that is on the node."""
        names = (line.split()[0].partition("@")[0] for line in self.space.run("ip", "-br", "link").splitlines())
        return sorted(name for name in names if name.startswith("pc"))

    def ask(self, verb: str, variables: dict[str, str], descriptor: int | None = None, **configuration: Any) -> Any:
        """One request, as the plugin sends it. Raises Refused, OSError."""
        text = json.dumps({"cniVersion": "1.1.0", "name": "percale", "type": "percale-cni", **configuration})
        asked = {**variables, "CNI_COMMAND": verb}
        code, output = ask(self.directory / "s", asked, text.encode(), descriptor)
        answer: Any = json.loads(output) if output else None
        if code != 0:
            raise Refused(answer)
        return answer

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)


class Pod:
    """A namespace that the node's agent wires."""

    def __init__(self, node: Node, space: Space, name: str) -> None:
        self.node = node
        self.space = space
        self.name = name
        self.result: Any = None

    def cni(self, verb: str, *, namespace: bool = True, **configuration: Any) -> Any:
        """Raises Refused, OSError."""
        variables = {
            "CNI_CONTAINERID": f"container-{self.name}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name}",
            **({"CNI_NETNS": str(self.space.path)} if namespace else {}),
        }
        return self.node.ask(verb, variables, self.space.descriptor if namespace else None, **configuration)

    def add(self, **configuration: Any) -> Pod:
        self.result = self.cni("ADD", **configuration)
        return self

    @property
    def addresses(self) -> list[str]:
        """IPv4, IPv6."""
        return [given["address"].partition("/")[0] for given in self.result["ips"]]

    def reaches(self, *addresses: str) -> bool:
        return all(" 0% packet loss" in self.space.run("ping", "-c1", "-W2", each, check=False) for each in addresses)

    def is_wired(self) -> bool:
        """The node and the pod reach each other in both families."""
        node = self.node.space
        there = all(" 0% packet loss" in node.run("ping", "-c1", "-W2", each, check=False) for each in self.addresses)
        return there and self.reaches("192.0.2.1", "fd00:99::1")


@pytest.fixture
def node(space: Space) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="percale-") as directory:  # short: a socket lives in there
        made = Node(space, Path(directory))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def new_pod(node: Node, new_space: Callable[[], Space]) -> Callable[[str], Pod]:
    """Makes as many pods as a test needs, not added yet."""
    return lambda name: Pod(node, new_space(), name)


@pytest.fixture(params=["routed", "bridge"])
def wiring(request: pytest.FixtureRequest, node: Node) -> str:
    node.wiring = str(request.param)
    return node.wiring
