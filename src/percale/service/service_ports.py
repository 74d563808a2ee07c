"""A Service → its ports, each with the virtual addresses that it requests. Called by `resolver.py` for each changed Service.

IPv4 and IPv6 are separate ports: they have different addresses and endpoints.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPNetwork, is_address, is_network, packed, parse_network
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.service import (
    AFFINITY_TIMEOUT,
    HEADLESS_LABEL,
    LONGEST_AFFINITY,
    PROXY_NAME_LABEL,
    Service,
    ServicePort,
)
from percale.service.node_context import ServiceConfig
from percale.service.refused_addresses import Refused, balancer_refusal, cluster_ip_refusal, external_refusal
from percale.service.strategies import Strategy, parse_strategy

VipKind: TypeAlias = Literal["cluster", "load-balancer", "external", "node-port"]


class PortName(NamedTuple):
    """Identity of a service port; `port` is "" if it has no name."""

    namespace: str
    service: str
    port: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}{':' if self.port else ''}{self.port}"


class Vip(NamedTuple):
    """Where clients reach a service port. `address` is packed, and empty for a node port."""

    kind: VipKind
    address: bytes
    port: int


def format_vip(vip: Vip) -> str:
    """`10.96.0.1:80`, `[fd00::1]:80`, `node port 30080`."""
    return f"node port {vip.port}" if vip.kind == "node-port" else format_endpoint(vip.address, vip.port)


def format_endpoint(address: bytes, port: int) -> str:
    """A packed address and a port as text."""
    text = str(ip_address(address))
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"


class PortSpec(Struct, frozen=True, gc=False):
    """One port of a Service in one address family, before endpoints."""

    name: PortName
    family: Family
    age: str
    """creationTimestamp and uid of the Service: of two that request the same address, the older one gets it."""
    vips: tuple[Vip, ...]
    internal_local: bool
    external_local: bool
    source_ranges: tuple[IPNetwork, ...]
    """Clients of the load balancer's addresses; empty: all."""
    affinity: int | None
    """Timeout of session affinity in seconds; None: no affinity."""
    strategy: Strategy

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.name.namespace, self.name.service)

    @property
    def number(self) -> int:
        """`port` of the Service, not its node port."""
        return next(vip.port for vip in self.vips if vip.kind == "cluster")


class ServiceFacts(Struct, frozen=True, gc=False):
    """What a proxy needs of a Service. Without ports it is not proxied."""

    key: ObjectKey
    ports: tuple[PortSpec, ...]
    selectorless: bool
    """No controller writes its EndpointSlices."""
    health_check_port: int | None
    problems: tuple[str, ...]
    refused: tuple[Refused, ...] = ()
    """Requested addresses that its ports do not have."""
    external: tuple[bytes, ...] = ()
    """External IPs that it has unless they belong to a node."""


def facts_of_service(service: Service, config: ServiceConfig) -> ServiceFacts:
    """Headless Services, external names and Services of other proxies have no ports."""
    spec = service.spec
    problems: list[str] = []
    ports: tuple[PortSpec, ...] = ()
    refused: list[Refused] = []
    if is_proxied(service):
        ports = tuple(_ports(service, config, problems, refused))
    uncertain = bool(spec.externalIPs) and config.external_ips == ()
    external = {vip.address for port in ports for vip in port.vips if vip.kind == "external"} if uncertain else ()
    needs_check = spec.type == "LoadBalancer" and is_external_local(service)
    return ServiceFacts(
        key=service.key,
        ports=ports,
        selectorless=not spec.selector,
        health_check_port=(
            _port(spec.healthCheckNodePort, "spec.healthCheckNodePort", problems) if needs_check and ports else None
        ),
        problems=tuple([f"Service {service.key}: {each}" for each in problems]) if problems else (),
        refused=tuple(dict.fromkeys(refused)) if refused else (),
        external=tuple(sorted(external)),
    )


def is_proxied(service: Service) -> bool:
    """Whether this proxy implements it."""
    labels, spec = service.metadata.labels, service.spec
    if PROXY_NAME_LABEL in labels or HEADLESS_LABEL in labels or spec.type == "ExternalName":
        return False
    return (spec.clusterIP or next(iter(spec.clusterIPs), None)) not in (None, "", "None")


def is_external_local(service: Service) -> bool:
    """externalTrafficPolicy Local applies: external clients reach only endpoints of the node that they connect to."""
    spec = service.spec
    return spec.externalTrafficPolicy == "Local" and (
        spec.type in ("NodePort", "LoadBalancer") or bool(spec.type == "ClusterIP" and spec.externalIPs)
    )


def _strategy(service: Service, default: str, problems: list[str]) -> Strategy:
    try:
        return parse_strategy(service.metadata.annotations, default)
    except ValueError as error:
        problems.append(f"{error}; {default} is used")
        return parse_strategy({}, default)


def _packed(texts: Iterable[str], field: str, problems: list[str]) -> list[bytes]:
    """Invalid ones go to `problems`."""
    found = []
    for text in texts:
        if is_address(text):
            found.append(packed(text))
        elif text not in ("", "None"):
            problems.append(f'{field}: "{text}" is not an IP address')
    return found


def _networks(texts: Iterable[str], field: str, problems: list[str]) -> list[IPNetwork]:
    found = []
    for text in texts:
        if is_network(text.strip()):
            found.append(parse_network(text.strip()))
        else:
            problems.append(f'{field}: "{text}" is not a network in CIDR form')
    return found


Refusal: TypeAlias = Callable[[bytes, ServiceConfig], str | None]


def _ports(service: Service, config: ServiceConfig, problems: list[str], refused: list[Refused]) -> Iterator[PortSpec]:
    """The families are those of the cluster IPs; the first address of each counts."""

    def admitted(texts: Sequence[str], field: str, refusal: Refusal) -> list[bytes]:
        found: list[bytes] = []
        if not texts:
            return found
        for address in _packed(texts, field, problems):
            if (why := refusal(address, config)) is None:
                found.append(address)
            else:
                refused.append(Refused(field, address, why))
        return found

    spec, meta = service.spec, service.metadata
    ingress = [each.ip for each in service.status.loadBalancer.ingress if each.ip and each.ipMode != "Proxy"]
    addresses: tuple[tuple[VipKind, list[bytes]], ...] = (
        ("load-balancer", admitted(ingress, "status.loadBalancer.ingress", balancer_refusal)),
        ("external", admitted(spec.externalIPs, "spec.externalIPs", external_refusal)),
    )
    ranges = _networks(spec.loadBalancerSourceRanges, "spec.loadBalancerSourceRanges", problems)
    affinity, external_local = _affinity(service, problems), is_external_local(service)
    node_ports = [_port(port.nodePort, f"spec.ports[{i}].nodePort", problems) for i, port in enumerate(spec.ports)]
    clusters = admitted(spec.clusterIPs or (spec.clusterIP or "",), "spec.clusterIPs", cluster_ip_refusal)
    age = f"{meta.creationTimestamp or '~'} {meta.uid}" if meta.uid else meta.creationTimestamp or "~"
    strategy = _strategy(service, config.strategy, problems)
    for cluster in {len(address): address for address in reversed(clusters)}.values():
        family = Family.of_packed(cluster)
        matching = tuple([each for each in ranges if each.version == family])
        if not matching and len(ranges) < len(spec.loadBalancerSourceRanges):
            matching = (_NO_CLIENT[family],)  # invalid ranges admit no client
        for port, node_port in zip(spec.ports, node_ports, strict=True):
            yield PortSpec(
                name=PortName(
                    sys.intern(meta.namespace or "default"), meta.name, sys.intern(port.name or ""), port.protocol
                ),
                family=family,
                age=age,
                vips=_vips(port, node_port, cluster, addresses),
                internal_local=spec.internalTrafficPolicy == "Local",
                external_local=external_local,
                source_ranges=matching,
                affinity=affinity,
                strategy=strategy,
            )


_NO_CLIENT: dict[Family, IPNetwork] = {Family.IPV4: parse_network("0.0.0.0/32"), Family.IPV6: parse_network("::/128")}
"""No packet has such a source."""


def _port(number: int | None, field: str, problems: list[str]) -> int | None:
    """An invalid port goes to `problems`."""
    if number and not 0 < number <= 0xFFFF:
        problems.append(f"{field}: {number} is not a port, 1 to 65535")
        return None
    return number or None


def _vips(
    port: ServicePort, node_port: int | None, cluster: bytes, addresses: Iterable[tuple[VipKind, list[bytes]]]
) -> tuple[Vip, ...]:
    """Each address once; its first kind counts, so that load balancer addresses win."""
    kinds: dict[bytes, VipKind] = {cluster: "cluster"}
    for kind, each in addresses:
        for address in each:
            if len(address) == len(cluster):
                kinds.setdefault(address, kind)
    vips = [Vip(kind, address, port.port) for address, kind in kinds.items()]
    if node_port:
        vips.append(Vip("node-port", b"", node_port))
    return tuple(vips)


def _affinity(service: Service, problems: list[str]) -> int | None:
    if service.spec.sessionAffinity != "ClientIP":
        return None
    config = service.spec.sessionAffinityConfig
    client = config.clientIP if config is not None else None
    timeout = client.timeoutSeconds if client is not None else None
    if timeout is None:
        return AFFINITY_TIMEOUT
    if 0 < timeout <= LONGEST_AFFINITY:
        return timeout
    problems.append(
        f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {timeout} is not from 1 to {LONGEST_AFFINITY}; "
        f"{AFFINITY_TIMEOUT} is used"
    )
    return AFFINITY_TIMEOUT
