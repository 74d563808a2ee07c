"""A pod, and the pod template of workloads."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import ClassVar, Literal, TypeAlias

import msgspec

from percale.model.addresses import IPAddress, PortNumber, check_address
from percale.model.condition import Condition, holds
from percale.model.meta import Integer, Object, ObjectMeta, Part

Protocol: TypeAlias = Literal["TCP", "UDP", "SCTP"]

PROTOCOLS: Mapping[int, Protocol] = {6: "TCP", 17: "UDP", 132: "SCTP"}
"""By their numbers in the IP header."""
PROTOCOL_NUMBERS: Mapping[str, int] = {name: number for number, name in PROTOCOLS.items()}


class ContainerPort(Part, frozen=True, kw_only=True):
    """A port that a container listens on; `hostPort` exposes it on the node."""

    containerPort: PortNumber
    name: str | None = None
    protocol: Protocol = "TCP"
    hostPort: PortNumber | None = None
    hostIP: str | None = None


class Container(Part, frozen=True, kw_only=True):
    """The containers of a pod share its network namespace."""

    name: str
    image: str | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Part, frozen=True, kw_only=True):
    """The fields that matter for networking and scheduling."""

    containers: tuple[Container, ...]
    nodeName: str | None = None
    nodeSelector: dict[str, str] = msgspec.field(default_factory=dict)
    hostNetwork: bool = False
    hostname: str | None = None
    subdomain: str | None = None
    terminationGracePeriodSeconds: Integer | None = None
    restartPolicy: Literal["Always", "OnFailure", "Never"] | None = None
    """A Job's pods must have one."""

    @property
    def host_ports(self) -> tuple[ContainerPort, ...]:
        """The container ports that are exposed on the node."""
        return tuple(port for each in self.containers for port in each.ports if port.hostPort is not None)


class PodIP(Part, frozen=True, kw_only=True):
    """An entry of `status.podIPs`."""

    ip: str

    def __post_init__(self) -> None:
        check_address(self.ip)


class ContainerStatus(Part, frozen=True, kw_only=True):
    """What the kubelet says of a container."""

    name: str
    image: str = ""
    ready: bool = False
    restartCount: Integer = 0


class PodStatus(Part, frozen=True, kw_only=True):
    """`podIPs` has one address per family; the first is `podIP`."""

    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] | None = None
    podIP: str | None = None
    podIPs: tuple[PodIP, ...] = ()
    hostIP: str | None = None
    conditions: tuple[Condition, ...] = ()
    startTime: str | None = None
    message: str | None = None
    reason: str | None = None
    containerStatuses: tuple[ContainerStatus, ...] = ()

    def __post_init__(self) -> None:
        if self.podIP and not (self.podIPs and self.podIPs[0].ip == self.podIP):
            check_address(self.podIP)

    @property
    def addresses(self) -> list[str]:
        """As text, the primary one first."""
        return [entry.ip for entry in self.podIPs] or list(filter(None, (self.podIP,)))


class Pod(Object, frozen=True, kw_only=True):
    """Has addresses once it runs."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Pod"
    PLURAL: ClassVar[str] = "pods"

    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def ips(self) -> tuple[IPAddress, ...]:
        """Its addresses, the primary one first."""
        return tuple(map(ip_address, self.status.addresses))

    @property
    def host_name(self) -> str:
        """The host name inside the pod; the kernel takes 63 characters."""
        return self.spec.hostname or self.metadata.name[:63].rstrip("-.")

    @property
    def ready(self) -> bool:
        return holds(self.status.conditions, "Ready")

    @property
    def terminating(self) -> bool:
        """It is deleted and in its grace period."""
        return self.metadata.deletionTimestamp is not None


class PodTemplateSpec(Part, frozen=True, kw_only=True):
    """The template of a workload's pods."""

    spec: PodSpec
    metadata: ObjectMeta = ObjectMeta()
