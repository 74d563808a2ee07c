"""Readiness, metric values and status of the agent. `node_agent.py` fills it in; `http/server.py` and CNI read it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable

from msgspec import Struct

from percale import __version__
from percale.agent.metrics import GaugeValues, Metrics
from percale.agent.network.backend_process import BackendSupervisor
from percale.agent.network.peers import Peers
from percale.agent.network.subnet_manager import UNDERLAY, SubnetManager
from percale.agent.network.tables import NetworkTables
from percale.agent.problems import Problem, Problems
from percale.agent.status import Addresses, Pod, Status
from percale.backend.protocol import Backend
from percale.cni.operations import Unready
from percale.cni.records import Records
from percale.cni.server import CniServer
from percale.ipam.address_pool import AddressPool
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.netconf import NetworkConfig


class NodeComponents(Struct, frozen=True):
    """What exists once the node has its subnet."""

    network: NetworkConfig
    backend: Backend
    backend_supervisor: BackendSupervisor | None
    subnet_manager: SubnetManager
    tables: NetworkTables
    peers: Peers
    pool: AddressPool
    records: Records
    cni: CniServer


class StatusReporter:
    """All methods are called on the event loop."""

    def __init__(self, node: str, metrics: Metrics, problems: Problems, reconciler: Reconciler) -> None:
        self.metrics = metrics
        self.ready = asyncio.Event()
        """Set once CNI requests were accepted; stays set when the underlay is lost later."""
        self.components: NodeComponents | None = None
        self._node = node
        self._problems = problems
        self._reconciler = reconciler
        self._started = time.time()

    def waiting_for(self) -> tuple[str, ...]:
        """Why CNI requests cannot be served; empty if they can."""
        now = self._problems.current
        if self.ready.is_set():
            return (now[UNDERLAY].error,) if UNDERLAY in now else ()
        return tuple(problem.error for problem in self._current()) or ("the agent is starting",)

    def unready(self) -> Unready | None:
        """The same for CNI's STATUS; `limited`: pods that run already may be unreachable too."""
        reasons = self.waiting_for()
        return Unready(reasons[0], limited=self.ready.is_set()) if reasons else None

    def _current(self) -> list[Problem]:
        """With the objects that the kernel rejects."""
        rejected = (Problem("kernel", str(error), self._started) for error in self._reconciler.problems.values())
        return [*self._problems.current.values(), *rejected]

    def summary(self) -> str:
        """One line for `systemctl status`."""
        components = self.components
        if components is None:
            return self.waiting_for()[0]
        return f"{components.subnet_manager.subnets}, {len(components.peers)} peers, {len(components.records.attachments)} pods"

    def gauge_values(self) -> GaugeValues:
        """For /metrics."""
        components = self.components
        return GaugeValues(
            ready=not self.waiting_for(),
            peers=components.peers.reached if components is not None else 0,
            unreached=len(components.peers) - components.peers.reached if components is not None else 0,
            pods=len(components.records.attachments) if components is not None else 0,
            problems=len(self._current()),
            addresses=_addresses(components) if components is not None else (),
        )

    def status(self) -> Status:
        """For /status."""
        components = self.components
        local = components.subnet_manager.local if components is not None else None
        waiting = self.waiting_for()
        return Status(
            node=self._node,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            ready=not waiting,
            waitingFor=waiting,
            backend=components.backend.type if components is not None else None,
            mtu=components.cni.network.mtu if components is not None else None,
            interface=local.interface.name if local is not None else None,
            publicIPs=_texts(local.public_ips) if local is not None else (),
            networks=_texts(components.network.networks) if components is not None else (),
            subnets=_texts(components.subnet_manager.subnets) if components is not None else (),
            addresses=_addresses(components) if components is not None else (),
            peers=components.peers.status() if components is not None else (),
            pods=_pods(components.records) if components is not None else (),
            problems=tuple(self._current()),
            lastError=self._problems.last,
        )


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values if value is not None)


def _addresses(components: NodeComponents) -> tuple[Addresses, ...]:
    used = [address for allocation in components.pool.allocations.values() for address in allocation.addresses]
    found = []
    for subnet in components.subnet_manager.subnets:
        count = sum(address in subnet for address in used)
        found.append(Addresses(str(subnet), count, components.pool.capacity(subnet) - count))
    return tuple(found)


def _pods(records: Records) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            container=owner.container,
            ifname=owner.ifname,
            addresses=tuple(str(address.ip) for address in attachment.wires.addresses),
            pod=str(attachment.pod) if attachment.pod is not None else None,
        )
        for owner, attachment in sorted(records.attachments.items())
    )
