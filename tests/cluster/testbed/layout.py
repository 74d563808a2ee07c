"""Names, addresses and directories of a testbed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

NAME = "percale-testbed"
"""Of the cgroup that has all processes. There is one testbed at a time on a machine."""
DIRECTORY = Path("/tmp") / NAME
CONTROL_PLANE = "control-plane"
ZONES = 3
_CONTROL_PLANE, _GATEWAY, _NODES = 10, 1, 10


@dataclass(frozen=True)
class Family:
    """The addresses of one IP version."""

    version: int
    underlay: IPv4Network | IPv6Network
    pods: str
    node_prefix: int
    """Of a node's pods."""
    services: str
    api_service: str
    dns: str

    def host(self, number: int) -> str:
        """An address of the underlay."""
        return str(self.underlay[number])

    @property
    def gateway(self) -> str:
        """The switch: leads nowhere, but nodes must have a default route."""
        return self.host(_GATEWAY)

    @property
    def control_plane(self) -> str:
        return self.host(_CONTROL_PLANE)


IPV4 = Family(4, IPv4Network("172.30.0.0/24"), "10.244.0.0/16", 24, "10.96.0.0/16", "10.96.0.1", "10.96.0.10")
IPV6 = Family(6, IPv6Network("fd00:30::/64"), "fd00:244::/48", 64, "fd00:96::/112", "fd00:96::1", "fd00:96::a")
FAMILIES = {"ipv4": (IPV4,), "dual": (IPV4, IPV6), "ipv6": (IPV6,)}
"""By what a cluster's nodes have; the first is the one that its single addresses are of."""


@dataclass(frozen=True)
class Node:
    number: int
    families: tuple[Family, ...]

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """One of each family."""
        return tuple(family.host(_NODES + self.number) for family in self.families)

    @property
    def zone(self) -> str:
        return f"zone-{(self.number - 1) % ZONES + 1}"


@dataclass(frozen=True)
class Layout:
    """What later commands must know of a testbed that is up."""

    binaries: str
    node_count: int = 3
    stack: str = "ipv4"
    """One of FAMILIES."""
    network: str = "vxlan"
    """One of networks.NETWORKS."""
    directory: str = str(DIRECTORY)

    @property
    def root(self) -> Path:
        return Path(self.directory)

    @property
    def programs(self) -> Path:
        return Path(self.binaries)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(number, self.families) for number in range(1, self.node_count + 1))

    @property
    def families(self) -> tuple[Family, ...]:
        return FAMILIES[self.stack]

    def each(self, field: str) -> str:
        """A field of all families, as Kubernetes' options take them."""
        return ",".join(getattr(family, field) for family in self.families)

    @property
    def control_plane(self) -> str:
        """The address that others use."""
        return self.families[0].control_plane

    @property
    def api_server(self) -> str:
        host = self.control_plane
        return f"https://[{host}]:6443" if ":" in host else f"https://{host}:6443"

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
