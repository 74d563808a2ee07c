"""The lab's machines: namespaces, links, agents, cuts, and outside hosts' responders. Called by `cluster` and the verbs.

A node is added as namespace → link → agent.yaml → agent, and removed in reverse.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace

from percale.controllers.service_networks import ServiceNetworks
from percale.errors import LabError
from percale.kernel.netns import CurrentNetns, create_namespace, delete_namespace
from percale.lab.machines import fabric
from percale.lab.machines.agents import Agents
from percale.lab.machines.router_routes import RouterRoute
from percale.lab.pods.responder import Identity, Port, Responder
from percale.lab.process.bootstrap import NETNS
from percale.lab.run_dir import LabDir
from percale.lab.spec.topology import LabNode, Machine, Topology, parse_port
from percale.model import subnet_env


async def _no_register(machines: Sequence[Machine]) -> None:
    """Nobody needs to know of them."""


class AgentSettings(Struct, frozen=True):
    """Configuration shared by all agents of a lab."""

    network: dict[str, Any]
    wiring: str
    verbose: bool
    services: ServiceNetworks
    store: str
    """Its address."""


@dataclass(slots=True)
class Machines:
    """Used on the controller's event loop."""

    lab_dir: LabDir
    topology: Topology
    settings: AgentSettings
    agents: Agents
    responder: Responder
    cuts: set[fabric.Cut] = field(default_factory=set)
    """Pairs of machines that cannot reach each other."""
    routes: frozenset[RouterRoute] = frozenset()
    """Routes of outside hosts to pods and Services."""
    register: Callable[[Sequence[Machine]], Awaitable[None]] = _no_register
    """Makes the Node objects of new nodes, before their agents start."""

    async def build(self) -> None:
        """Build the router and all machines; agents are started, not waited for. Raises LabError, OSError."""
        inhabited = {machine.segment for machine in self.topology.nodes}
        outside = [segment for segment in self.topology.segments if segment not in inhabited]
        await asyncio.to_thread(fabric.build_router, CurrentNetns(), self.topology.segments, outside)
        await self._plug_in(self.topology.machines)

    @property
    def nodes(self) -> Collection[str]:
        """The names of the nodes' machines."""
        return [machine.name for machine in self.topology.nodes]

    def node(self, name: str) -> Machine | None:
        """The node's machine; None: no such node."""
        found = self.topology.find(name)
        return found if found is not None and found.kind == "node" else None

    async def wait_ready(self, name: str) -> None:
        """Wait until the node's agent serves pods."""
        await self.agents.wait_ready(name)

    async def add(self, node: LabNode) -> Machine:
        """Add a node; nothing is left of it on failure. Raises LabError."""
        self.topology = self.topology.with_node(node)
        machine = self.topology.nodes[-1]
        try:
            await self._plug_in([machine])
        except (LabError, OSError) as error:
            await self._remove_machine(machine.name)
            if isinstance(error, LabError):
                raise
            where = error.filename or self.lab_dir.directory
            raise LabError(f"{machine.name} cannot be made: {error.strerror}", where=str(where)) from error
        return machine

    async def remove(self, name: str) -> None:
        """Remove a node whose pods are gone."""
        await self.agents.stop(name)
        await self._remove_machine(name)

    async def _remove_machine(self, name: str) -> None:
        """Remove a machine's cuts, link, namespace and files."""
        self.topology = self.topology.without(name)
        await self.cut({pair for pair in self.cuts if name not in pair})
        await asyncio.to_thread(fabric.unplug, CurrentNetns(), name)
        await asyncio.to_thread(delete_namespace, NETNS / name)
        lab_dir = self.lab_dir.node(name)
        for directory in (lab_dir.directory, lab_dir.run):
            shutil.rmtree(directory, ignore_errors=True)

    async def cut(self, pairs: set[fabric.Cut]) -> None:
        """Drop traffic between these pairs of machines, and between no others."""
        if pairs == self.cuts:
            return
        await asyncio.to_thread(fabric.apply_cuts, CurrentNetns(), pairs)
        self.cuts = pairs

    def cut_pairs(self) -> tuple[tuple[str, str], ...]:
        """As answers have them."""
        return tuple(sorted((min(cut), max(cut)) for cut in self.cuts))

    def set_network(self, network: dict[str, Any]) -> None:
        """Of agents that start from now on; all else in their files stays as users have made it."""
        self.settings = replace(self.settings, network=network)
        for name in self.nodes:
            path = self.lab_dir.node(name).config
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "network": network}, sort_keys=False))

    async def set_routes(self, routes: frozenset[RouterRoute]) -> None:
        """Set the router's routes of outside hosts to pods and Services. Raises LabError."""
        if routes != self.routes:
            await asyncio.to_thread(fabric.set_routes, CurrentNetns(), self.routes, routes)
            self.routes = routes

    async def _plug_in(self, machines: Sequence[Machine]) -> None:
        """Create namespaces and links; then start nodes' agents and hosts' responders."""

        def cables() -> None:
            for machine in machines:
                create_namespace(NETNS / machine.name)
            fabric.plug_in(CurrentNetns(), machines)

        await asyncio.to_thread(cables)
        for machine in machines:
            if machine.kind == "node":
                self._configure_agent(machine)
            else:
                who = Identity("host", machine.name, None, (str(machine.address.ip), str(machine.address6.ip)))
                ports = {Port(*parse_port(text, machine.name)) for text in machine.ports}
                await self.responder.serve(who, NETNS / machine.name, ports)
        nodes = [machine for machine in machines if machine.kind == "node"]
        await self.register(nodes)
        for node in nodes:
            self.agents.start(self.lab_dir.node(node.name))

    def _configure_agent(self, machine: Machine) -> None:
        """An ordinary agent.yaml: users may edit it and restart the agent."""
        node = self.lab_dir.node(machine.name)
        configuration = {
            "node": machine.name,
            "store": self.settings.store,
            "network": self.settings.network,
            "stateDir": str(node.state),
            "runDir": str(node.run),
            "subnetFile": str(node.run / subnet_env.FILE),
            "cni": {"confDir": str(node.cni), "socket": str(node.cni_socket), "wiring": self.settings.wiring},
            "services": {"cidrs": list(map(str, self.settings.services.cidrs))},
            "verbose": self.settings.verbose,
        }
        node.cni.mkdir(parents=True, exist_ok=True)
        node.config.write_text(yaml.safe_dump(configuration, sort_keys=False))


async def wait_until(condition: Callable[[], bool], what: str, hint: str, timeout_seconds: float = 10.0) -> None:
    """Wait until the condition holds. Raises LabError when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while not condition():
        if loop.time() > deadline:
            raise LabError(f"{what}: still not so after {timeout_seconds:.0f} s", hint=hint)
        await asyncio.sleep(0.005)
