"""A large cluster with Services, deterministic. Used by the rows of services.

Each service has one port, a cluster IP of its own and one EndpointSlice. Endpoints are pods of 10.128.0.0/10, each behind one
service, on a hundred nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from percale.model.endpoints import (
    SERVICE_LABEL,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
)
from percale.model.meta import ObjectMeta
from percale.model.service import Service, ServicePort, ServiceSpec

SERVICE_CIDR = "10.96.0.0/12"
POD_CIDR = "10.128.0.0/10"
PORT, TARGET = 80, 8080

_NODES = 100
_NAMESPACES = 50


def service_world(services: int, endpoints: int) -> Iterator[Service | EndpointSlice]:
    """Services, each followed by its slice."""
    for number in range(services):
        yield service(number)
        yield endpoint_slice(number, [number * endpoints + index for index in range(endpoints)])


def cluster_ip(number: int) -> str:
    """A Service's cluster IP; 10.96.0.1 is the API server's."""
    return str(IPv4Address("10.96.0.2") + number)


def endpoint_ip(number: int) -> str:
    """An endpoint's address; endpoints are numbered over all Services."""
    return str(IPv4Address("10.128.0.2") + number)


def service(number: int, *, port: int = PORT) -> Service:
    """A ClusterIP service with a selector."""
    address = cluster_ip(number)
    return Service(
        metadata=_meta(number),
        spec=ServiceSpec(
            selector={"app": _name(number)},
            clusterIP=address,
            clusterIPs=(address,),
            ipFamilies=("IPv4",),
            ports=(ServicePort(name="http", port=port, targetPort=TARGET),),
        ),
    )


def endpoint_slice(number: int, endpoints: list[int]) -> EndpointSlice:
    """The slice of a service with these endpoints."""
    meta = _meta(number, suffix="-x7k2p")
    ready = EndpointConditions(ready=True, serving=True, terminating=False)
    return EndpointSlice(
        metadata=meta,
        addressType="IPv4",
        ports=(EndpointPort(name="http", port=TARGET),),
        endpoints=tuple(
            Endpoint(
                addresses=(endpoint_ip(each),),
                conditions=ready,
                nodeName=f"node-{each % _NODES}",
                targetRef=ObjectReference(kind="Pod", namespace=meta.namespace, name=f"{_name(number)}-{each}"),
            )
            for each in endpoints
        ),
    )


def _name(number: int) -> str:
    return f"app-{number:05d}"


def _meta(number: int, suffix: str = "") -> ObjectMeta:
    labels = {SERVICE_LABEL: _name(number)} if suffix else {}
    return ObjectMeta(name=_name(number) + suffix, namespace=f"team-{number % _NAMESPACES:02d}", labels=labels)
