"""Readiness, metric values and status of the agent. `http/server.py` and CNI read it; each kind of network is its source."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Protocol

from msgspec import Struct, structs

from percale import __version__
from percale.agent.metrics import GaugeValues, Metrics
from percale.agent.network.underlay import UNDERLAY
from percale.agent.problems import Problem, Problems
from percale.agent.status import Addresses, BgpStatus, OtherBackend, Peer, Pod, Status
from percale.cni.operations import Unready
from percale.kernel.reconciler.reconciler import Reconciler


class NetworkStatus(Struct, frozen=True):
    """What a node's network contributes to `Status`; fields that are not known are None or empty."""

    backend: str | None = None
    otherBackend: OtherBackend | None = None
    mtu: int | None = None
    interface: str | None = None
    publicIPs: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    addresses: tuple[Addresses, ...] = ()
    peers: tuple[Peer, ...] = ()
    pods: tuple[Pod, ...] = ()
    bgp: BgpStatus | None = None


class StatusSource(Protocol):
    """The network of this node's pods: `network/node_network.py`, `network/foreign_networking.py`."""

    def summary(self) -> str:
        """One line for `systemctl status`."""

    def network_status(self) -> NetworkStatus:
        """For /status."""

    def peer_counts(self) -> tuple[int, int]:
        """Reachable and unreachable peers."""

    def pod_count(self) -> int:
        """Pods of this node."""

    def addresses(self) -> tuple[Addresses, ...]:
        """Usage of this node's subnets."""


class _Starting:
    """The source until the node has a network."""

    def summary(self) -> str:
        return "the agent is starting"

    def network_status(self) -> NetworkStatus:
        return NetworkStatus()

    def peer_counts(self) -> tuple[int, int]:
        return 0, 0

    def pod_count(self) -> int:
        return 0

    def addresses(self) -> tuple[Addresses, ...]:
        return ()


class StatusReporter:
    """All methods are called on the event loop."""

    def __init__(self, node: str, metrics: Metrics, problems: Problems, reconciler: Reconciler) -> None:
        self.metrics = metrics
        self.ready = asyncio.Event()
        """Set once CNI requests were accepted; stays set when the underlay is lost later."""
        self.source: StatusSource = _Starting()
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

    def gauge_values(self) -> GaugeValues:
        """For /metrics."""
        reached, unreached = self.source.peer_counts()
        return GaugeValues(
            ready=not self.waiting_for(),
            peers=reached,
            unreached=unreached,
            pods=self.source.pod_count(),
            problems=len(self._current()),
            addresses=self.source.addresses(),
        )

    def status(self) -> Status:
        """For /status."""
        waiting = self.waiting_for()
        return Status(
            node=self._node,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            ready=not waiting,
            waitingFor=waiting,
            **structs.asdict(self.source.network_status()),
            problems=tuple(self._current()),
            lastError=self._problems.last,
        )
