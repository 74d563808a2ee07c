"""Behind a Service: EndpointSlice, and its older form, Endpoints."""

from __future__ import annotations

from typing import ClassVar, Literal

from percale.model.meta import Integer, Object, Part
from percale.model.pod import Protocol

SERVICE_LABEL = "kubernetes.io/service-name"
"""A slice's label that names its Service."""

MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
"""A slice's label that names the controller that wrote it."""

SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"
"""`"true"` on an Endpoints object: it is not mirrored into slices."""


class ObjectReference(Part, frozen=True, kw_only=True):
    """The pod behind an address."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None


class EndpointPort(Part, frozen=True, kw_only=True):
    """`name` is that of the Service's port."""

    name: str | None = None
    port: Integer | None = None
    protocol: Protocol = "TCP"
    appProtocol: str | None = None


class EndpointConditions(Part, frozen=True, kw_only=True):
    """None: unknown, which Kubernetes takes for ready, serving and not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Part, frozen=True, kw_only=True):
    """A zone that should use the endpoint."""

    name: str


class ForNode(Part, frozen=True, kw_only=True):
    """A node that should use the endpoint."""

    name: str


class EndpointHints(Part, frozen=True, kw_only=True):
    """Who should use the endpoint. Nodes come before zones."""

    forNodes: tuple[ForNode, ...] = ()
    forZones: tuple[ForZone, ...] = ()


class Endpoint(Part, frozen=True, kw_only=True):
    """One pod; its first address counts."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    nodeName: str | None = None
    zone: str | None = None
    targetRef: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointSlice(Object, frozen=True, kw_only=True):
    """Some of a Service's endpoints, of one address family."""

    API_VERSION: ClassVar[str] = "discovery.k8s.io/v1"
    KIND: ClassVar[str] = "EndpointSlice"

    addressType: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class EndpointAddress(Part, frozen=True, kw_only=True):
    """An address of an Endpoints object."""

    ip: str
    hostname: str | None = None
    nodeName: str | None = None
    targetRef: ObjectReference | None = None


class EndpointSubset(Part, frozen=True, kw_only=True):
    """Every address with every port."""

    addresses: tuple[EndpointAddress, ...] = ()
    notReadyAddresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Object, frozen=True, kw_only=True):
    """Named as its Service."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Endpoints"

    subsets: tuple[EndpointSubset, ...] = ()
