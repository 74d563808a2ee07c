"""A Service: one address for many pods."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from percale.model.addresses import PortNumber
from percale.model.meta import Integer, Object, Part
from percale.model.pod import Protocol

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""On a Service or a slice: another proxy, of that name, serves it."""

HEADLESS_LABEL = "service.kubernetes.io/headless"
"""On a Service or a slice: proxies have nothing to do with it."""

AFFINITY_TIMEOUT = 10800
"""Seconds, where a Service with session affinity does not say."""
LONGEST_AFFINITY = 86400
"""Seconds that a Service may ask for."""


class ServicePort(Part, frozen=True, kw_only=True):
    """`targetPort` is a number or the name of a container's port; without it, it is `port`."""

    port: PortNumber
    name: str | None = None
    protocol: Protocol = "TCP"
    targetPort: Integer | str | None = None
    nodePort: Integer | None = None
    appProtocol: str | None = None


class ClientIPConfig(Part, frozen=True, kw_only=True):
    """How long a client stays with its endpoint."""

    timeoutSeconds: Integer | None = None


class SessionAffinityConfig(Part, frozen=True, kw_only=True):
    """Of `sessionAffinity: ClientIP`."""

    clientIP: ClientIPConfig | None = None


class ServiceSpec(Part, frozen=True, kw_only=True):
    """Without a selector the endpoints are somebody else's to write. `clusterIP` may be `None`, in words: headless."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    clusterIP: str | None = None
    clusterIPs: tuple[str, ...] = ()
    ipFamilies: tuple[Literal["IPv4", "IPv6"], ...] = ()
    ipFamilyPolicy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    externalIPs: tuple[str, ...] = ()
    externalName: str | None = None
    loadBalancerIP: str | None = None
    loadBalancerSourceRanges: tuple[str, ...] = ()
    externalTrafficPolicy: Literal["Cluster", "Local"] | None = None
    internalTrafficPolicy: Literal["Cluster", "Local"] | None = None
    healthCheckNodePort: Integer | None = None
    allocateLoadBalancerNodePorts: bool | None = None
    loadBalancerClass: str | None = None
    publishNotReadyAddresses: bool = False
    sessionAffinity: Literal["None", "ClientIP"] = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    trafficDistribution: str | None = None


class LoadBalancerIngress(Part, frozen=True, kw_only=True):
    """An address at which a load balancer serves. `ipMode: Proxy`: packets to it must reach the load balancer itself."""

    ip: str | None = None
    hostname: str | None = None
    ipMode: Literal["VIP", "Proxy"] | None = None


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    """What the load balancer has given."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    """Of a Service of type LoadBalancer."""

    loadBalancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True, kw_only=True):
    """Where to: its endpoints are in EndpointSlices."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Service"

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()
