"""Kubernetes' controllers of Services: EndpointSlices, Endpoints, load balancers' addresses, the DNS server. Pure.

    Service + Pods ─▶ EndpointSlices, Endpoints        Endpoints of a Service without a selector ─▶ EndpointSlices
    LoadBalancer ─▶ status.loadBalancer                any Service ─▶ kube-system/dns, kube-system/kube-dns

`plan` is called by `control_loop`, `plan_beside_kubernetes` by a lab with Kubernetes. They are deterministic, and have no writes
when nothing is to be changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from msgspec.structs import replace

from percale.controllers import cluster_dns
from percale.controllers.endpointslices import ENDPOINTSLICE_CONTROLLER, endpoint_slices_for
from percale.controllers.service_allocator import Allocations
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Change, Create, Delete, Write
from percale.model.addresses import IPAddress, IPNetwork, is_address
from percale.model.endpoints import (
    MANAGER_LABEL,
    Endpoint,
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
)
from percale.model.ip_family import Family
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus
from percale.service.endpoints_mirroring import MIRRORING_CONTROLLER, is_mirrored, mirrored_slices
from percale.store.object_cache import ObjectCache

_ENDPOINTS_LABEL = "endpoints.kubernetes.io/managed-by"
_ENDPOINTS_MANAGER = "endpoint-controller"

T = TypeVar("T", bound=Object)


@dataclass(slots=True)
class Plan:
    """The next writes, and problems of Services."""

    writes: list[Write] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def plan(cache: ObjectCache, networks: ServiceNetworks) -> Plan:
    """For all Services of the cluster."""
    services = cache.all(Service)
    result = Plan()
    if any(service.key != cluster_dns.SERVICE for service in services):
        result.writes += _dns_objects(cache, networks)
    _allocate_missing(services, networks, result)
    _assign_addresses(services, networks, result)
    slices = _slices(services, cache)
    result.writes += _reconcile(cache.all(EndpointSlice), slices, _is_managed_slice)
    owned = defaultdict[ObjectKey, list[EndpointSlice]](list)
    for each in slices:
        owned[_owner(each)].append(each)
    endpoints = [_endpoints_of(service, owned[service.key]) for service in services if service.spec.selector]
    result.writes += _reconcile(cache.all(Endpoints), endpoints, _is_managed_endpoints)
    return result


def plan_beside_kubernetes(cache: ObjectCache, networks: ServiceNetworks) -> Plan:
    """What no controller of Kubernetes' own does: load balancers' addresses, the DNS server."""
    result = Plan([*_dns_objects(cache, networks)])
    _assign_addresses(cache.all(Service), networks, result)
    return result


def _reconcile(actual: Iterable[T], desired: Iterable[T], is_managed: Callable[[T], bool]) -> Iterator[Write]:
    """Create and change desired objects, delete managed ones that are not desired. Other people's objects stay."""
    remaining = {each.key: each for each in actual}
    for wanted in desired:
        found = remaining.pop(wanted.key, None)
        if found is None:
            yield Create(wanted)
            continue
        meta = wanted.metadata
        changed = replace(
            found.metadata, labels=meta.labels, annotations=meta.annotations, ownerReferences=meta.ownerReferences
        )
        new = replace(wanted, metadata=changed)
        if new != found:
            yield Change(new)
    yield from (Delete(each) for each in remaining.values() if is_managed(each))


def _dns_objects(cache: ObjectCache, networks: ServiceNetworks) -> Iterator[Write]:
    if cache.get(Service, cluster_dns.SERVICE) is None:
        yield Create(cluster_dns.dns_service(networks))
    if cache.get(Pod, cluster_dns.POD) is None:
        yield Create(cluster_dns.dns_pod())


# Cluster IPs and node ports of Services that bypassed admission


def _allocate_missing(services: Sequence[Service], networks: ServiceNetworks, plan: Plan) -> None:
    incomplete = [service for service in services if not _is_complete(service)]
    if not incomplete:
        return
    allocations = Allocations(networks.cidrs, [service for service in services if _is_complete(service)])
    for service, admitted in zip(incomplete, allocations.admit_all(incomplete), strict=True):
        plan.problems += [f"Service {service.key}: {error}" for error in admitted.errors]
        if admitted.service != service and not admitted.errors:
            plan.writes.append(Change(admitted.service))


def _is_complete(service: Service) -> bool:
    spec = service.spec
    if spec.type == "ExternalName":
        return True
    if not spec.clusterIPs or not spec.ipFamilies:
        return False
    is_open = spec.type == "NodePort" or (
        spec.type == "LoadBalancer" and spec.allocateLoadBalancerNodePorts is not False
    )
    return not is_open or all(port.nodePort for port in spec.ports)


# Load balancers


def _assign_addresses(services: Sequence[Service], networks: ServiceNetworks, plan: Plan) -> None:
    """Allocate addresses for load balancers without any; clear the status of Services that are none any more."""
    waiting = [service for service in services if _needs_address(service) and not service.status.loadBalancer.ingress]
    texts = [each.ip or "" for one in services for each in one.status.loadBalancer.ingress]
    taken = set(map(ip_address, filter(is_address, texts)))
    for service in services:
        if service.spec.type != "LoadBalancer" and service.status.loadBalancer.ingress:
            plan.writes.append(Change(replace(service, status=ServiceStatus())))
    for service in sorted(waiting, key=lambda each: not each.spec.loadBalancerIP):
        allocated = list(_allocate(service, networks.load_balancers, taken, plan.problems))
        if allocated:
            taken |= set(allocated)
            ingress = tuple(LoadBalancerIngress(ip=str(address), ipMode="VIP") for address in allocated)
            status = ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))
            plan.writes.append(Change(replace(service, status=status)))


def _needs_address(service: Service) -> bool:
    """It has no class: one with a class is another controller's."""
    return service.spec.type == "LoadBalancer" and not service.spec.loadBalancerClass and _is_complete(service)


def _allocate(
    service: Service, pools: Iterable[IPNetwork], taken: set[IPAddress], problems: list[str]
) -> Iterator[IPAddress]:
    text = service.spec.loadBalancerIP
    requested = ip_address(text) if text and is_address(text) else None
    for pool in pools:
        if Family(pool.version).kubernetes not in service.spec.ipFamilies:
            continue
        free = (address for address in pool.hosts() if address not in taken)
        address: IPAddress | None = next(free, None)
        if requested is not None and requested.version == pool.version:
            address = requested if requested in pool and requested not in taken else None
        if address is not None:
            yield address
        else:
            what = f"loadBalancerIP {requested} is taken, or not one of {pool}" if requested else f"{pool} is full"
            problems.append(f"Service {service.key}: {what}")


# Endpoints


def _slices(services: Iterable[Service], cache: ObjectCache) -> list[EndpointSlice]:
    """All slices that controllers manage."""
    nodes, candidates = cache.all(Node), _by_label(cache.all(Pod))
    foreign = {each.key for each in cache.all(EndpointSlice) if not _is_managed_slice(each)}
    found: list[EndpointSlice] = []
    for service in services:
        namespace, name = service.key
        if service.spec.selector:
            label = next(iter(service.spec.selector.items()))
            found += endpoint_slices_for(service, candidates[namespace, label], nodes)
            continue
        endpoints = cache.get(Endpoints, ObjectKey(namespace, name))
        if endpoints is not None and is_mirrored(endpoints) and service.spec.type != "ExternalName":
            found += mirrored_slices(endpoints)
    return [_with_free_name(each, foreign) for each in found]


def _by_label(pods: Iterable[Pod]) -> Mapping[tuple[str | None, tuple[str, str]], list[Pod]]:
    """An index, so that no Service looks at all pods."""
    found = defaultdict[tuple[str | None, tuple[str, str]], list[Pod]](list)
    for pod in pods:
        for label in pod.metadata.labels.items():
            found[pod.metadata.namespace, label].append(pod)
    return found


def _with_free_name(wanted: EndpointSlice, foreign: set[ObjectKey]) -> EndpointSlice:
    """Under another name if the name is another writer's."""
    while wanted.key in foreign:
        wanted = replace(wanted, metadata=replace(wanted.metadata, name=f"{wanted.metadata.name}-x"))
    return wanted


def _is_managed_slice(each: EndpointSlice) -> bool:
    return each.metadata.labels.get(MANAGER_LABEL) in (ENDPOINTSLICE_CONTROLLER, MIRRORING_CONTROLLER)


def _is_managed_endpoints(each: Endpoints) -> bool:
    return each.metadata.labels.get(_ENDPOINTS_LABEL) == _ENDPOINTS_MANAGER


def _endpoints_of(service: Service, slices: Sequence[EndpointSlice]) -> Endpoints:
    """Of the Service's first family, without terminating ones."""
    subsets: dict[tuple[EndpointPort, ...], tuple[list[EndpointAddress], list[EndpointAddress]]] = {}
    for each in slices:
        if each.addressType == slices[0].addressType:
            ready, waiting = subsets.setdefault(each.ports, ([], []))
            for endpoint in each.endpoints:
                if endpoint.conditions.ready:
                    ready.append(_address(endpoint))
                elif not endpoint.conditions.terminating:
                    waiting.append(_address(endpoint))
    return Endpoints(
        metadata=ObjectMeta(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            labels={**service.metadata.labels, _ENDPOINTS_LABEL: _ENDPOINTS_MANAGER},
        ),
        subsets=tuple(
            EndpointSubset(addresses=tuple(ready), notReadyAddresses=tuple(waiting), ports=ports)
            for ports, (ready, waiting) in subsets.items()
            if ready or waiting
        ),
    )


def _owner(each: EndpointSlice) -> ObjectKey:
    return ObjectKey(each.metadata.namespace, each.metadata.ownerReferences[0].name)


def _address(endpoint: Endpoint) -> EndpointAddress:
    return EndpointAddress(
        ip=endpoint.addresses[0],
        hostname=endpoint.hostname,
        nodeName=endpoint.nodeName,
        targetRef=endpoint.targetRef,
    )
