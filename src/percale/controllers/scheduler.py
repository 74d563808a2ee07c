"""Chooses a pod's node: nodeSelector and host ports must fit, then the fewest pods of the same owner, then the fewest pods.

Called by `control_loop`. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from percale.counted import counted
from percale.model.meta import ObjectKey
from percale.model.node import Node
from percale.model.pod import ContainerPort, Pod


class Unschedulable(Struct, frozen=True):
    """Why no node fits."""

    reason: str


@dataclass(slots=True)
class Scheduler:
    """Schedules pods one by one; each counts for the next."""

    nodes: Sequence[Node]
    _total: Counter[str] = field(default_factory=Counter)
    _siblings: Counter[tuple[str, ObjectKey]] = field(default_factory=Counter)
    _ports: defaultdict[tuple[str, int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Node, host port and protocol → the host IPs of pods that have it; "" is any."""

    def count(self, pods: Iterable[Pod]) -> None:
        """Add pods that already have a node."""
        for pod in pods:
            if pod.spec.nodeName:
                self._add(pod, pod.spec.nodeName)

    def place(self, pod: Pod) -> str | Unschedulable:
        """A node's name, or why there is none."""
        if not self.nodes:
            return Unschedulable("the lab has no nodes")
        feasible = [node for node in self.nodes if not node.spec.unschedulable and selects(pod.spec.nodeSelector, node)]
        if not feasible:
            wanted = ",".join(f"{key}={value}" for key, value in sorted(pod.spec.nodeSelector.items()))
            what = f"has the labels {wanted}" if wanted else "takes pods"
            return Unschedulable(f"none of {counted(len(self.nodes), 'node')} {what}")
        feasible = [node for node in feasible if not self._conflicts(pod, node.metadata.name)]
        if not feasible:
            wanted = ", ".join(f"{port.hostPort}/{port.protocol}" for port in pod.spec.host_ports)
            return Unschedulable(f"none of {counted(len(self.nodes), 'node')} has the host port {wanted} free")
        owner = _owner(pod)
        best = min(
            (node.metadata.name for node in feasible),
            key=lambda name: (self._siblings[name, owner], self._total[name], name),
        )
        self._add(pod, best)
        return best

    def _add(self, pod: Pod, node: str) -> None:
        self._total[node] += 1
        self._siblings[node, _owner(pod)] += 1
        for port in pod.spec.host_ports:
            self._ports[node, port.hostPort or 0, port.protocol].append(_host_ip(port))

    def _conflicts(self, pod: Pod, node: str) -> bool:
        """A pod of the node has one of its host ports."""
        return any(
            "" in (_host_ip(port), other) or _host_ip(port) == other
            for port in pod.spec.host_ports
            for other in self._ports.get((node, port.hostPort or 0, port.protocol), ())
        )


def _host_ip(port: ContainerPort) -> str:
    return "" if port.hostIP in (None, "", "0.0.0.0", "::") else port.hostIP or ""  # noqa: S104


def selects(selector: dict[str, str], node: Node) -> bool:
    """The node has all these labels."""
    return selector.items() <= node.metadata.labels.items()


def _owner(pod: Pod) -> ObjectKey:
    """Its controller, or itself."""
    owner = next(iter(pod.metadata.ownerReferences), None)
    return ObjectKey(pod.metadata.namespace, f"{owner.kind}/{owner.name}" if owner else f"Pod/{pod.metadata.name}")
