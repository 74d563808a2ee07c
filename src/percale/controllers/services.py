"""What Kubernetes' controllers make of Services: EndpointSlices, Endpoints, load balancers' addresses, names. Pure.

    Service + Pods ─▶ EndpointSlices, Endpoints        Endpoints of a Service without a selector ─▶ EndpointSlices
    LoadBalancer ─▶ status.loadBalancer                any Service ─▶ kube-system/dns, kube-system/kube-dns

`plan` is called by `planner`; from the same world it makes the same writes, and none when all is as it should be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from msgspec.structs import replace

from percale.controllers import cluster_dns as name_objects
from percale.controllers.admission import asks
from percale.controllers.endpointslices import PUBLISHER, published_slices
from percale.controllers.service_allocator import Allocations
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Change, Create, Delete, Write
from percale.model.addresses import Address, Network, is_address
from percale.model.endpoints import (
    MANAGER_LABEL,
    Endpoint,
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
)
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus
from percale.service.endpoints_mirroring import MIRRORER, is_mirrored, mirrored_slices
from percale.store.cache import World

_ENDPOINTS_LABEL = "endpoints.kubernetes.io/managed-by"
_ENDPOINTS_MANAGER = "endpoint-controller"

T = TypeVar("T", bound=Object)


@dataclass(slots=True)
class Plan:
    """What to write, and which Services cannot have what they ask for."""

    writes: list[Write] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def plan(world: World, networks: ServiceNetworks) -> Plan:
    """For all Services of the cluster."""
    services = world.all(Service)
    made = Plan()
    if any(service.key != name_objects.SERVICE for service in services):
        made.writes += _name_server(world, networks)
    _complete(services, networks, made)
    _balance(services, networks, made)
    slices = _slices(services, world)
    made.writes += _converge(world.all(EndpointSlice), slices, _is_made_slice)
    owned = defaultdict[ObjectKey, list[EndpointSlice]](list)
    for each in slices:
        owned[_owner(each)].append(each)
    endpoints = [_endpoints_of(service, owned[service.key]) for service in services if service.spec.selector]
    made.writes += _converge(world.all(Endpoints), endpoints, _is_made_endpoints)
    return made


def _converge(known: Iterable[T], wishes: Iterable[T], is_ours: Callable[[T], bool]) -> Iterator[Write]:
    """The wishes are there, what is ours and nobody's wish is not."""
    there = {each.key: each for each in known}
    for wish in wishes:
        found = there.pop(wish.key, None)
        if found is None:
            yield Create(wish)
            continue
        meta = wish.metadata
        changed = replace(
            found.metadata, labels=meta.labels, annotations=meta.annotations, ownerReferences=meta.ownerReferences
        )
        new = replace(wish, metadata=changed)
        if new != found:
            yield Change(new)
    yield from (Delete(each) for each in there.values() if is_ours(each))


def _name_server(world: World, networks: ServiceNetworks) -> Iterator[Write]:
    if world.get(Service, name_objects.SERVICE) is None:
        yield Create(name_objects.name_service(networks))
    if world.get(Pod, name_objects.POD) is None:
        yield Create(name_objects.name_pod())


# Cluster IPs and node ports, for what did not come in by `lab apply`


def _complete(services: Sequence[Service], networks: ServiceNetworks, made: Plan) -> None:
    bare = [service for service in services if not _is_complete(service)]
    if not bare:
        return
    allocations = Allocations(networks.cidrs, [service for service in services if _is_complete(service)])
    for service in sorted(bare, key=lambda each: not asks(each)):
        result = allocations.admit(service)
        made.problems += [f"Service {service.key}: {error}" for error in result.errors]
        if result.service != service and not result.errors:
            made.writes.append(Change(result.service))


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


def _balance(services: Sequence[Service], networks: ServiceNetworks, made: Plan) -> None:
    """An address for each that waits for one; a Service that is no load balancer any more loses its own."""
    waiting = [service for service in services if _is_balanced(service) and not service.status.loadBalancer.ingress]
    texts = [each.ip or "" for one in services for each in one.status.loadBalancer.ingress]
    taken = set(map(ip_address, filter(is_address, texts)))
    for service in services:
        if service.spec.type != "LoadBalancer" and service.status.loadBalancer.ingress:
            made.writes.append(Change(replace(service, status=ServiceStatus())))
    for service in sorted(waiting, key=lambda each: not each.spec.loadBalancerIP):
        given = list(_given(service, networks.load_balancers, taken, made.problems))
        if given:
            taken |= set(given)
            ingress = tuple(LoadBalancerIngress(ip=str(address), ipMode="VIP") for address in given)
            status = ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))
            made.writes.append(Change(replace(service, status=status)))


def _is_balanced(service: Service) -> bool:
    """By us; one with a class is another load balancer's."""
    return service.spec.type == "LoadBalancer" and not service.spec.loadBalancerClass and _is_complete(service)


def _given(service: Service, pools: Iterable[Network], taken: set[Address], problems: list[str]) -> Iterator[Address]:
    asked = service.spec.loadBalancerIP
    wish = ip_address(asked) if asked and is_address(asked) else None
    for pool in pools:
        if ("IPv6" if pool.version == 6 else "IPv4") not in service.spec.ipFamilies:
            continue
        free = (address for address in pool.hosts() if address not in taken)
        address: Address | None = next(free, None)
        if wish is not None and wish.version == pool.version:
            address = wish if wish in pool and wish not in taken else None
        if address is not None:
            yield address
        else:
            what = f"loadBalancerIP {wish} is taken, or not one of {pool}" if wish else f"{pool} is full"
            problems.append(f"Service {service.key}: {what}")


# Endpoints


def _slices(services: Iterable[Service], world: World) -> list[EndpointSlice]:
    """All that should be there, but people's own."""
    nodes, candidates = world.all(Node), _by_label(world.all(Pod))
    foreign = {each.key for each in world.all(EndpointSlice) if not _is_made_slice(each)}
    found: list[EndpointSlice] = []
    for service in services:
        namespace, name = service.key
        if service.spec.selector:
            label = next(iter(service.spec.selector.items()))
            found += published_slices(service, candidates[namespace, label], nodes)
            continue
        endpoints = world.get(Endpoints, ObjectKey(namespace, name))
        if endpoints is not None and is_mirrored(endpoints) and service.spec.type != "ExternalName":
            found += mirrored_slices(endpoints)
    return [_elsewhere(each, foreign) for each in found]


def _by_label(pods: Iterable[Pod]) -> Mapping[tuple[str | None, tuple[str, str]], list[Pod]]:
    """Few Services have many pods: no need to look at each pod for each Service."""
    found = defaultdict[tuple[str | None, tuple[str, str]], list[Pod]](list)
    for pod in pods:
        for label in pod.metadata.labels.items():
            found[pod.metadata.namespace, label].append(pod)
    return found


def _elsewhere(wish: EndpointSlice, foreign: set[ObjectKey]) -> EndpointSlice:
    """Under another name when somebody has a slice of this one."""
    while wish.key in foreign:
        wish = replace(wish, metadata=replace(wish.metadata, name=f"{wish.metadata.name}-x"))
    return wish


def _is_made_slice(each: EndpointSlice) -> bool:
    return each.metadata.labels.get(MANAGER_LABEL) in (PUBLISHER, MIRRORER)


def _is_made_endpoints(each: Endpoints) -> bool:
    return each.metadata.labels.get(_ENDPOINTS_LABEL) == _ENDPOINTS_MANAGER


def _endpoints_of(service: Service, slices: Sequence[EndpointSlice]) -> Endpoints:
    """The older form: the endpoints of the Service's first family, those that terminate left out."""
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
