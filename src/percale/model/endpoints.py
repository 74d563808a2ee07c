"""The endpoints of a Service: EndpointSlice and its predecessor Endpoints."""

from __future__ import annotations

from typing import ClassVar, Literal

from percale.model.meta import Integer, Object, Part
from percale.model.pod import Protocol

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of a slice: the name of its Service."""

MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
"""Label of a slice: the controller that manages it."""

SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"
"""Label of an Endpoints object: `"true"` excludes it from mirroring into slices."""


class ObjectReference(Part, frozen=True, kw_only=True):
    """The pod of an endpoint."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None


class EndpointPort(Part, frozen=True, kw_only=True):
    """`name` is that of the Service port."""

    name: str | None = None
    port: Integer | None = None
    protocol: Protocol = "TCP"
    appProtocol: str | None = None


class EndpointConditions(Part, frozen=True, kw_only=True):
    """None is unknown, which means ready, serving and not terminating."""

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
    """Whose clients should use the endpoint. Nodes take precedence over zones."""

    forNodes: tuple[ForNode, ...] = ()
    forZones: tuple[ForZone, ...] = ()


class Endpoint(Part, frozen=True, kw_only=True):
    """One pod; only its first address is used."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    nodeName: str | None = None
    zone: str | None = None
    targetRef: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointSlice(Object, frozen=True, kw_only=True):
    """Some endpoints of a Service, of one address family."""

    API_VERSION: ClassVar[str] = "discovery.k8s.io/v1"
    KIND: ClassVar[str] = "EndpointSlice"
    PLURAL: ClassVar[str] = "endpointslices"

    addressType: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class EndpointAddress(Part, frozen=True, kw_only=True):
    ip: str
    hostname: str | None = None
    nodeName: str | None = None
    targetRef: ObjectReference | None = None


class EndpointSubset(Part, frozen=True, kw_only=True):
    """The product of addresses and ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    notReadyAddresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Object, frozen=True, kw_only=True):
    """Has the name of its Service."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Endpoints"
    PLURAL: ClassVar[str] = "endpoints"

    subsets: tuple[EndpointSubset, ...] = ()
