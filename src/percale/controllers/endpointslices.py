"""A Service and its pods → EndpointSlices, as Kubernetes' EndpointSlice controller makes them.

Called by `services` and `offline`.
Pods with another number for a named target port are in other slices: a slice's ports apply to all of its endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from percale.model.endpoints import (
    MANAGER_LABEL,
    SERVICE_LABEL,
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForNode,
    ForZone,
    ObjectReference,
)
from percale.model.meta import ObjectMeta, OwnerReference
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import HEADLESS_LABEL, Service, ServicePort
from percale.service.node_context import ZONE_LABEL

ENDPOINTSLICE_CONTROLLER = "endpointslice-controller.k8s.io"
MAX_ENDPOINTS_PER_SLICE = 100

AddressType: TypeAlias = Literal["IPv4", "IPv6"]
Ports: TypeAlias = tuple[EndpointPort, ...]


def endpoint_slices_for(service: Service, pods: Iterable[Pod], nodes: Iterable[Node]) -> list[EndpointSlice]:
    """At least one for each address family, even without endpoints. None for a Service without a selector."""
    selector = service.spec.selector
    if not selector or service.spec.type == "ExternalName":
        return []
    zones = {node.metadata.name: node.metadata.labels.get(ZONE_LABEL) for node in nodes}
    selected = sorted((pod for pod in pods if _is_selected(pod, service, selector)), key=lambda pod: pod.key)
    return [
        EndpointSlice(
            metadata=_metadata(service, f"{service.metadata.name}-{family.lower()}-{index}"),
            addressType=family,
            endpoints=endpoints,
            ports=ports,
        )
        for family in address_types(service)
        for index, (ports, endpoints) in enumerate(_partitions(service, selected, zones, family))
    ]


def address_types(service: Service) -> tuple[AddressType, ...]:
    """`spec.ipFamilies`, or the families of its cluster IPs."""
    spec = service.spec
    if spec.ipFamilies:
        return spec.ipFamilies
    addresses = [each for each in spec.clusterIPs or (spec.clusterIP or "",) if each not in ("", "None")]
    return tuple(dict.fromkeys("IPv6" if ":" in each else "IPv4" for each in addresses)) or ("IPv4",)


def _is_selected(pod: Pod, service: Service, selector: Mapping[str, str]) -> bool:
    return (
        pod.metadata.namespace == service.metadata.namespace
        and selector.items() <= pod.metadata.labels.items()
        and pod.status.phase not in ("Succeeded", "Failed")
        and bool(pod.status.addresses)
    )


def _partitions(
    service: Service, pods: Iterable[Pod], zones: Mapping[str, str | None], family: AddressType
) -> Iterator[tuple[Ports, tuple[Endpoint, ...]]]:
    """Ports and endpoints of each slice."""
    groups: dict[Ports, list[Endpoint]] = {}
    for pod in pods:
        addresses = [each for each in pod.status.addresses if (":" in each) == (family == "IPv6")]
        if addresses:
            ports = _ports(service.spec.ports, pod)
            groups.setdefault(ports, []).append(_endpoint(service, pod, addresses, zones))
    if not groups:
        yield (), ()
    for ports, endpoints in groups.items():
        for start in range(0, len(endpoints), MAX_ENDPOINTS_PER_SLICE):
            yield ports, tuple(endpoints[start : start + MAX_ENDPOINTS_PER_SLICE])


def _ports(ports: Iterable[ServicePort], pod: Pod) -> Ports:
    """The target ports' numbers in this pod, without names that it does not have."""
    return tuple(
        EndpointPort(name=port.name or "", port=number, protocol=port.protocol, appProtocol=port.appProtocol)
        for port in ports
        if (number := _target(port, pod)) is not None
    )


def _target(port: ServicePort, pod: Pod) -> int | None:
    target = port.targetPort or port.port
    if isinstance(target, int):
        return target
    named = (
        each.containerPort
        for container in pod.spec.containers
        for each in container.ports
        if each.name == target and each.protocol == port.protocol
    )
    return next(named, None)


def _endpoint(service: Service, pod: Pod, addresses: list[str], zones: Mapping[str, str | None]) -> Endpoint:
    serving, terminating = pod.ready, pod.metadata.deletionTimestamp is not None
    node = pod.spec.nodeName
    zone = zones.get(node or "") or None
    named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    return Endpoint(
        addresses=tuple(addresses[:1]),
        conditions=EndpointConditions(
            ready=service.spec.publishNotReadyAddresses or (serving and not terminating),
            serving=serving,
            terminating=terminating,
        ),
        hostname=pod.spec.hostname if named else None,
        nodeName=node,
        zone=zone,
        targetRef=ObjectReference(
            kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
        ),
        hints=_hints(service.spec.trafficDistribution, node, zone),
    )


def _hints(distribution: str | None, node: str | None, zone: str | None) -> EndpointHints | None:
    zones = (ForZone(name=zone),) if zone else ()
    if distribution == "PreferSameNode" and node:
        return EndpointHints(forNodes=(ForNode(name=node),), forZones=zones)
    if distribution in ("PreferClose", "PreferSameZone", "PreferSameNode") and zones:
        return EndpointHints(forZones=zones)
    return None


def _metadata(service: Service, name: str) -> ObjectMeta:
    meta = service.metadata
    headless = {HEADLESS_LABEL: ""} if service.spec.clusterIP == "None" else {}
    return ObjectMeta(
        name=name,
        namespace=meta.namespace,
        labels={**meta.labels, **headless, SERVICE_LABEL: meta.name, MANAGER_LABEL: ENDPOINTSLICE_CONTROLLER},
        ownerReferences=(
            OwnerReference(kind="Service", name=meta.name, uid=meta.uid or "", apiVersion="v1", controller=True),
        ),
    )
