"""A Service: virtual addresses for a set of pods."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from percale.model.addresses import PortNumber
from percale.model.meta import Integer, Object, Part
from percale.model.pod import Protocol

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""Label of a Service or slice: the named proxy implements it instead of this one."""

HEADLESS_LABEL = "service.kubernetes.io/headless"
"""Label of a Service or slice that proxies ignore."""

AFFINITY_TIMEOUT = 10800
"""Default seconds of session affinity."""
LONGEST_AFFINITY = 86400
"""Maximum seconds of session affinity."""


class ServicePort(Part, frozen=True, kw_only=True):
    """`targetPort` is a number or the name of a container port; default `port`."""

    port: PortNumber
    name: str | None = None
    protocol: Protocol = "TCP"
    targetPort: Integer | str | None = None
    nodePort: Integer | None = None
    appProtocol: str | None = None


class ClientIPConfig(Part, frozen=True, kw_only=True):
    """How long a client keeps its endpoint."""

    timeoutSeconds: Integer | None = None


class SessionAffinityConfig(Part, frozen=True, kw_only=True):
    """For `sessionAffinity: ClientIP`."""

    clientIP: ClientIPConfig | None = None


class ServiceSpec(Part, frozen=True, kw_only=True):
    """Without a selector, the endpoints are maintained by others. `clusterIP: None` (the text) makes it headless."""

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
    """An address of a load balancer. `ipMode: Proxy`: packets to it must reach the load balancer itself."""

    ip: str | None = None
    hostname: str | None = None
    ipMode: Literal["VIP", "Proxy"] | None = None


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    """The addresses that the load balancer has assigned."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    """For Services of type LoadBalancer."""

    loadBalancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True, kw_only=True):
    """Its endpoints are in EndpointSlices."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Service"
    PLURAL: ClassVar[str] = "services"

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()
