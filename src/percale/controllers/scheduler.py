"""Which node a pod goes to: its nodeName, else one that its nodeSelector fits and whose host ports are free, with the fewest of
its siblings and of all.

Called by the controller's planner. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from percale.model.meta import ObjectKey
from percale.model.node import Node
from percale.model.pod import ContainerPort, Pod


class Unschedulable(Struct, frozen=True):
    """Why no node will do."""

    reason: str


@dataclass(slots=True)
class Scheduler:
    """Places one pod after the other; what it placed counts for the next."""

    nodes: Sequence[Node]
    _total: Counter[str] = field(default_factory=Counter)
    _siblings: Counter[tuple[str, ObjectKey]] = field(default_factory=Counter)
    _ports: defaultdict[tuple[str, int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Node, host port and protocol → the addresses at which pods have it; "" is all."""

    def count(self, pods: Iterable[Pod]) -> None:
        """These have their places already."""
        for pod in pods:
            if pod.spec.nodeName:
                self._take(pod, pod.spec.nodeName)

    def place(self, pod: Pod) -> str | Unschedulable:
        """A node's name, or why there is none."""
        if not self.nodes:
            return Unschedulable("the lab has no nodes")
        fitting = [node for node in self.nodes if not node.spec.unschedulable and selects(pod.spec.nodeSelector, node)]
        if not fitting:
            wanted = ",".join(f"{key}={value}" for key, value in sorted(pod.spec.nodeSelector.items()))
            what = f"has the labels {wanted}" if wanted else "takes pods"
            return Unschedulable(f"none of {len(self.nodes)} nodes {what}")
        fitting = [node for node in fitting if not self._clashes(pod, node.metadata.name)]
        if not fitting:
            wanted = ", ".join(f"{port.hostPort}/{port.protocol}" for port in pod.spec.host_ports)
            return Unschedulable(f"none of {len(self.nodes)} nodes has the host port {wanted} free")
        family = _family(pod)
        best = min(
            (node.metadata.name for node in fitting),
            key=lambda name: (self._siblings[name, family], self._total[name], name),
        )
        self._take(pod, best)
        return best

    def _take(self, pod: Pod, node: str) -> None:
        self._total[node] += 1
        self._siblings[node, _family(pod)] += 1
        for port in pod.spec.host_ports:
            self._ports[node, port.hostPort or 0, port.protocol].append(_at(port))

    def _clashes(self, pod: Pod, node: str) -> bool:
        """Somebody there has one of its host ports."""
        return any(
            "" in (_at(port), other) or _at(port) == other
            for port in pod.spec.host_ports
            for other in self._ports.get((node, port.hostPort or 0, port.protocol), ())
        )


def _at(port: ContainerPort) -> str:
    return "" if port.hostIP in (None, "", "0.0.0.0", "::") else port.hostIP or ""  # noqa: S104


def selects(selector: dict[str, str], node: Node) -> bool:
    """The node has all these labels."""
    return selector.items() <= node.metadata.labels.items()


def _family(pod: Pod) -> ObjectKey:
    """Pods of one owner are siblings; one without is alone."""
    owner = next(iter(pod.metadata.ownerReferences), None)
    return ObjectKey(pod.metadata.namespace, f"{owner.kind}/{owner.name}" if owner else f"Pod/{pod.metadata.name}")
