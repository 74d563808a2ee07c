"""What checks look at: the network namespace and files of the process, the agent and its store; each read once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from percale.agent.config.settings import AgentConfig
from percale.agent.http import client
from percale.agent.network.underlay import interface_options
from percale.agent.pid_file import running_agent
from percale.agent.status import Status
from percale.backend.interface_selection import UnderlayAddress, local_node, select_interface
from percale.backend.protocol import Backend, LocalNode
from percale.backend.registry import make_backend
from percale.checks.stored_objects import StoredObjects, stored_network
from percale.errors import AgentError
from percale.kernel.netlink import route
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.route import SeenNeighbour
from percale.kernel.protocol import Underlay
from percale.kernel.rtnl.driver import opened
from percale.kernel.rtnl.dump import NetlinkDump
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig, network_config, parse_network_config, read_net_conf
from percale.model.subnet_lease import NodeSubnets
from percale.render.objects import KernelObject, Link

_PATIENCE = 1.0
"""Seconds for the agent's answer."""


class Process(Struct, frozen=True):
    """Of this network namespace."""

    pid: int
    name: str


_DEFAULT_NETWORK = network_config({"Network": "10.244.0.0/16"})


@dataclass(frozen=True)
class Host:
    """The host of this process."""

    config: AgentConfig
    network: NetworkConfig | None = None
    """None: it is not known."""
    release: str = field(default_factory=lambda: os.uname().release)
    proc: Path = Path("/proc")

    @property
    def network_or_default(self) -> NetworkConfig:
        """One that is not known counts as vxlan's with its defaults."""
        return self.network if self.network is not None else _DEFAULT_NETWORK

    @property
    def families(self) -> Sequence[Family]:
        return tuple(self.network_or_default.families)

    @property
    def backend_type(self) -> str | None:
        """None: the pods' network is another plugin's."""
        return self.network_or_default.backend_type if self.config.backend != "none" else None

    @property
    def tunnel_port(self) -> int | None:
        """Where peers' packets arrive, by UDP; None: there is no such tunnel."""
        return next(iter(self.network_or_default.options.tunnel_ports), None) if self.backend_type is not None else None

    @cached_property
    def backend(self) -> Backend:
        """With nothing of what it keeps on disk. Raises BadNetworkConfig."""
        return make_backend(self.network_or_default)

    @cached_property
    def node(self) -> LocalNode:
        """As the backend will see it, but for its subnets, which are the whole networks. Raises BadConfig."""
        return local_node(self.config.node, self.interface, NodeSubnets(*self.network_or_default.networks))

    @cached_property
    def underlay(self) -> Underlay:
        with opened() as driver:
            return driver.underlay()

    @cached_property
    def interface(self) -> UnderlayAddress:
        """The one between nodes. Raises BadConfig."""
        return select_interface(interface_options(self.config), self.underlay, self.families)

    @cached_property
    def links(self) -> Sequence[Link]:
        """All devices."""
        with closing(netlink.Socket(netlink.ROUTE)) as socket:
            return list(NetlinkDump(socket).links())

    @property
    def owned(self) -> Sequence[KernelObject]:
        """What the kernel has of ours now."""
        with closing(netlink.Socket(netlink.ROUTE)) as socket:
            return list(NetlinkDump(socket).ours())

    @cached_property
    def neighbours(self) -> Sequence[SeenNeighbour]:
        """Of all devices, whoever made them."""
        with closing(netlink.Socket(netlink.ROUTE)) as socket:
            answers = [
                route.decode_neighbour(each.body) for each in socket.dump(route.RTM_GETNEIGH, route.query_neighbours())
            ]
        return [each for each in answers if each is not None and not each.fdb]

    @cached_property
    def processes(self) -> Sequence[Process]:
        """Those that see this network."""
        return list(self._processes())

    def _processes(self) -> Iterator[Process]:
        ours = (self.proc / "thread-self/ns/net").readlink()
        for directory in self.proc.glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is none of our business
                if (directory / "ns/net").readlink() == ours:
                    yield Process(int(directory.name), (directory / "comm").read_text().strip())

    @cached_property
    def agent(self) -> int | None:
        """The process of a Percale agent that serves this node already."""
        return running_agent(Path(self.config.runDir))

    @cached_property
    def status(self) -> Status | None:
        """What that agent says; None: it does not answer."""
        if self.config.http is None:
            return None
        try:
            return client.decode(client.fetch(self.config.http, _PATIENCE))
        except AgentError:
            return None

    @cached_property
    def store(self) -> StoredObjects:
        """The agent's."""
        return StoredObjects(self.config.store)


def given_network(config: AgentConfig) -> NetworkConfig | None:
    """The one of the agent's configuration; None: it is in the store. Raises BadNetworkConfig."""
    if config.network is not None:
        return network_config(config.network, "network")
    if config.networkFile is not None:
        return parse_network_config(read_net_conf(config.networkFile), config.networkFile)
    return None


def running_host(config: AgentConfig) -> Host:
    """With the network that the agent has: its configuration's, else the store's. Raises BadNetworkConfig."""
    given = given_network(config)
    return Host(config, given if given is not None else stored_network(StoredObjects(config.store)))
