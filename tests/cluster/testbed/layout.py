"""Names, addresses and directories of a testbed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "percale-testbed"
"""Of the cgroup that has all processes. There is one testbed at a time on a machine."""
DIRECTORY = Path("/tmp") / NAME
CONTROL_PLANE = "control-plane"
CLUSTER_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
CONTROL_PLANE_IP = "172.30.0.10"
GATEWAY_IP = "172.30.0.1"
"""The switch: leads nowhere, but nodes must have a default route."""
API_SERVER = f"https://{CONTROL_PLANE_IP}:6443"
ZONES = 3


@dataclass(frozen=True)
class Node:
    number: int

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def address(self) -> str:
        return f"172.30.0.{10 + self.number}"

    @property
    def zone(self) -> str:
        return f"zone-{(self.number - 1) % ZONES + 1}"


@dataclass(frozen=True)
class Layout:
    """What later commands must know of a testbed that is up."""

    binaries: str
    node_count: int = 3
    directory: str = str(DIRECTORY)

    @property
    def root(self) -> Path:
        return Path(self.directory)

    @property
    def programs(self) -> Path:
        return Path(self.binaries)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(number) for number in range(1, self.node_count + 1))

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's."""
        return self.root / "admin" / "kubeconfig"

    def save(self) -> None:
        (self.root / "layout.json").write_text(json.dumps(asdict(self)))


def load(directory: Path = DIRECTORY) -> Layout | None:
    """That of the testbed in this directory; None where there is none."""
    path = directory / "layout.json"
    return Layout(**json.loads(path.read_text())) if path.exists() else None
