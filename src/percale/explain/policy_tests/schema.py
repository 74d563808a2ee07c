"""The schema of a policy test, field by field, and its nodes and pods as a cluster has them. Used by `cases.py`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from percale.model.addresses import PortNumber, check_address
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import ObjectMeta
from percale.model.node import Node, NodeAddress, NodeStatus
from percale.model.pod import Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus, Protocol
from percale.policy.rule_terms import FlowProtocol


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A field that is not in here is refused before this is filled (`cases.py`)."""


class Named(Part, frozen=True, kw_only=True):
    """A namespace, and what nodes and pods have in common."""

    name: str
    labels: dict[str, str] = {}


class NodeEntry(Named, frozen=True, kw_only=True):
    """`ips`: of both families, where it has both."""

    ips: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for ip in self.ips:
            check_address(ip)


class PortEntry(Part, frozen=True, kw_only=True):
    """A container's port."""

    containerPort: PortNumber
    name: str | None = None
    protocol: Protocol = "TCP"


class PodEntry(Named, frozen=True, kw_only=True):
    """`ip`, or `ips` of both families; a pod with hostNetwork has its node's."""

    namespace: str = DEFAULT_NAMESPACE
    ip: str | None = None
    ips: tuple[str, ...] = ()
    ports: tuple[PortEntry, ...] = ()
    node: str | None = None
    hostNetwork: bool = False
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Running"

    def __post_init__(self) -> None:
        for ip in self.addresses:
            check_address(ip)
        if not self.addresses:
            raise ValueError("`ip`: missing")

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.ips or tuple(filter(None, (self.ip,)))


class ProbeEntry(Part, frozen=True, kw_only=True):
    """`from` and `to`: `namespace/pod` or an address. ICMP has no port."""

    from_: str = msgspec.field(name="from")
    to: str
    protocol: FlowProtocol = "TCP"
    port: PortNumber | None = None
    allowed: bool
    doubt: str | None = None

    def __post_init__(self) -> None:
        if (self.port is None) != (self.protocol == "ICMP"):
            raise ValueError("`port`: missing" if self.port is None else "`port`: ICMP has none")


class SequenceEntry(Part, frozen=True, kw_only=True):
    """The case is a state, number `index` of `of`, of the test `group`."""

    group: str
    index: int
    of: int
    actions: tuple[Any, ...] = ()


class Document(Part, frozen=True, kw_only=True):
    """A case."""

    name: str
    namespaces: tuple[Named, ...] = ()
    nodes: tuple[NodeEntry, ...] = ()
    pods: tuple[PodEntry, ...] = ()
    policies: tuple[dict[str, Any], ...] = ()
    manifests: tuple[str, ...] = ()
    probes: tuple[ProbeEntry, ...]
    sequence: SequenceEntry | None = None
    source: str | None = None
    category: str | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    notes: Any = None


PARTS: dict[tuple[type[Part], str], type[Part]] = {
    (Document, "namespaces"): Named,
    (Document, "nodes"): NodeEntry,
    (Document, "pods"): PodEntry,
    (Document, "probes"): ProbeEntry,
    (Document, "sequence"): SequenceEntry,
    (PodEntry, "ports"): PortEntry,
}


def node_of(entry: NodeEntry) -> Node:
    addresses = tuple(NodeAddress(type="InternalIP", address=ip) for ip in entry.ips)
    return Node(metadata=ObjectMeta(name=entry.name, labels=entry.labels), status=NodeStatus(addresses=addresses))


def pod_of(entry: PodEntry) -> Pod:
    ports = tuple(
        ContainerPort(name=each.name, containerPort=each.containerPort, protocol=each.protocol) for each in entry.ports
    )
    return Pod(
        metadata=ObjectMeta(name=entry.name, namespace=entry.namespace, labels=entry.labels),
        spec=PodSpec(
            containers=(Container(name="main", ports=ports),), nodeName=entry.node, hostNetwork=entry.hostNetwork
        ),
        status=PodStatus(phase=entry.phase, podIPs=tuple(PodIP(ip=ip) for ip in entry.addresses)),
    )
