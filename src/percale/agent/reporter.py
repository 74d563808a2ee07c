"""What the agent says of itself: why it is not ready, figures, status. `node_agent.py` fills it in, `server.py` and CNI ask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable

from msgspec import Struct

from percale import __version__
from percale.agent.metrics import Figures, Metrics
from percale.agent.network.peers import Peers
from percale.agent.network.subnet_manager import UNDERLAY, Standing
from percale.agent.problems import Problem, Problems
from percale.agent.status import Addresses, Pod, Status
from percale.backend.protocol import Backend
from percale.cni.operations import Unready
from percale.cni.records import Records
from percale.cni.server import CniServer
from percale.ipam.address_pool import AddressPool
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.netconf import NetworkConfig


class Parts(Struct, frozen=True):
    """What there is once the node has its subnet."""

    network: NetworkConfig
    backend: Backend
    standing: Standing
    peers: Peers
    pool: AddressPool
    records: Records
    cni: CniServer


class Report:
    """All methods are called on the event loop."""

    def __init__(self, node: str, metrics: Metrics, problems: Problems, reconciler: Reconciler) -> None:
        self.metrics = metrics
        self.ready = asyncio.Event()
        """Set once pods were welcome; an interface that is gone later is another matter."""
        self.parts: Parts | None = None
        self._node = node
        self._problems = problems
        self._reconciler = reconciler
        self._started = time.time()

    def waiting_for(self) -> tuple[str, ...]:
        """Why pods cannot be served; empty when they can."""
        now = self._problems.current
        if self.ready.is_set():
            return (now[UNDERLAY].error,) if UNDERLAY in now else ()
        return tuple(problem.error for problem in self._current()) or ("the agent is starting",)

    def unready(self) -> Unready | None:
        """The same for CNI; pods that run already may be out of reach too."""
        reasons = self.waiting_for()
        return Unready(reasons[0], limited=self.ready.is_set()) if reasons else None

    def _current(self) -> list[Problem]:
        """Everything that is wrong now."""
        refused = (Problem("kernel", str(error), self._started) for error in self._reconciler.problems.values())
        return [*self._problems.current.values(), *refused]

    def summary(self) -> str:
        """For `systemctl status`."""
        if self.parts is None:
            return self.waiting_for()[0]
        return (
            f"{self.parts.standing.subnets}, {len(self.parts.peers)} peers, {len(self.parts.records.attachments)} pods"
        )

    def figures(self) -> Figures:
        """For /metrics."""
        parts = self.parts
        return Figures(
            ready=not self.waiting_for(),
            peers=parts.peers.reached if parts is not None else 0,
            unreached=len(parts.peers) - parts.peers.reached if parts is not None else 0,
            pods=len(parts.records.attachments) if parts is not None else 0,
            problems=len(self._current()),
            addresses=_addresses(parts) if parts is not None else (),
        )

    def status(self) -> Status:
        """For /status."""
        parts = self.parts
        local = parts.standing.local if parts is not None else None
        waiting = self.waiting_for()
        return Status(
            node=self._node,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            ready=not waiting,
            waitingFor=waiting,
            backend=parts.backend.type if parts is not None else None,
            mtu=parts.cni.network.mtu if parts is not None else None,
            interface=local.interface.name if local is not None else None,
            publicIPs=_texts((local.public_ip, local.public_ipv6)) if local is not None else (),
            networks=_texts(parts.network.networks) if parts is not None else (),
            subnets=_texts(parts.standing.subnets) if parts is not None else (),
            addresses=_addresses(parts) if parts is not None else (),
            peers=parts.peers.status() if parts is not None else (),
            pods=_pods(parts.records) if parts is not None else (),
            problems=tuple(self._current()),
            lastError=self._problems.last,
        )


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values if value is not None)


def _addresses(parts: Parts) -> tuple[Addresses, ...]:
    used = [address for allocation in parts.pool.allocations.values() for address in allocation.addresses]
    found = []
    for subnet in parts.standing.subnets:
        count = sum(address in subnet for address in used)
        found.append(Addresses(str(subnet), count, parts.pool.capacity(subnet) - count))
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
