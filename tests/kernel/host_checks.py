"""A node in a namespace of its own that checks look at, and that is broken and mended by what an operator types."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.conftest import Space
from tests.kernel.inside import inside
from tests.waiting import until

from percale.agent.config import loader
from percale.agent.config.settings import AgentConfig
from percale.checks.check import Outcome
from percale.checks.host import Host
from percale.checks.registry import NODE
from percale.model.netconf import network_config

LOOKS = {check.name: check.look for check in NODE}


class CheckedNode:
    """`eth0` is 192.168.7.1, to the namespace `peer`, which is 192.168.7.2."""

    def __init__(self, space: Space, peer: Space, directory: Path) -> None:
        self.space, self.peer, self.directory = space, peer, directory
        self.conflists = directory / "net.d"
        self.conflists.mkdir()
        space.shell(f"ip link set lo up; ip link add eth0 type veth peer name eth0 netns {peer.path}")
        space.shell("ip addr add 192.168.7.1/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.7.2")
        peer.shell("ip link set lo up; ip addr add 192.168.7.2/24 dev eth0; ip link set eth0 up")
        for name in ("all", "eth0", "default"):
            space.shell(f"sysctl -qw net.ipv4.conf.{name}.rp_filter=0")
        space.shell("sysctl -qw net.ipv4.ip_forward=1")
        until(lambda: "state UP" in space.shell("ip link show eth0"), "eth0 carries packets")

    def host(self, network: Mapping[str, Any] | None = None, **settings: Any) -> Host:
        """As the command makes it; a fresh one each time, for it reads once."""
        given = {
            "store": "files:/nonexistent",
            "cni.confDir": str(self.conflists),
            "runDir": str(self.directory / "run"),
        }
        config: AgentConfig = loader.load(None, {}, {**given, **settings})
        return Host(config, network_config(network) if network is not None else None)

    def look(self, check: str, network: Mapping[str, Any] | None = None, **settings: Any) -> Outcome:
        """What the check finds in here; it concerns this host."""
        found = self.all(network, **settings)[check]
        assert found is not None, f"{check} does not concern this host"
        return found

    def all(self, network: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Outcome | None]:
        """What every check finds."""
        host = self.host(network, **settings)
        return inside(self.space, lambda: {name: look(host) for name, look in LOOKS.items()})

    def mend(self, outcome: Outcome) -> None:
        """Type it."""
        assert outcome.type, outcome
        for command in outcome.type:
            self.space.shell(command)

    @contextmanager
    def process(self, name: str, space: Space | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A program of this name, in here or there."""
        program = self.directory / name
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        command = ["nsenter", f"--net={(space or self.space).path}", str(program), "1000"]
        running = subprocess.Popen(command)
        try:
            yield running
        finally:
            running.kill()
            running.wait()
