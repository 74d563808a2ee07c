"""Kubernetes objects: what a test says of one, and the rest by default. Fields may be plain values, as in a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import convert

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.endpoints import SERVICE_LABEL, Endpoint, EndpointSlice
from percale.model.meta import ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec, make_lease

Fields = Mapping[str, Any]


def metadata(name: str, namespace: str | None = "default", *, owner: str | None = None, **fields: Any) -> ObjectMeta:
    """`owner` is KIND/NAME of the controller."""
    if owner is not None:
        kind, _, controller = owner.partition("/")
        fields["ownerReferences"] = [{"kind": kind, "name": controller, "controller": True}]
    return convert({"name": name, "namespace": namespace, **fields}, ObjectMeta)


def pod(
    name: str = "web",
    *addresses: str,
    namespace: str = "default",
    labels: Fields | None = None,
    node: str | None = "n1",
    ports: Sequence[Any] = (),
    owner: str | None = None,
    ready: bool | None = None,
    meta: Fields | None = None,
    status: Fields | None = None,
    **spec: Any,
) -> Pod:
    """Running, with one container that has these ports. `ready` None: no such condition."""
    plain = {
        "metadata": metadata(name, namespace, owner=owner, labels=labels or {}, **(meta or {})),
        "spec": {"nodeName": node, "containers": [{"name": "main", "ports": ports}], **spec},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": each} for each in addresses],
            "conditions": [] if ready is None else [{"type": "Ready", "status": str(ready)}],
            **(status or {}),
        },
    }
    return convert(plain, Pod)


def service(
    name: str = "web",
    *,
    namespace: str = "default",
    labels: Fields | None = None,
    annotations: Fields | None = None,
    ingress: Sequence[str] = (),
    meta: Fields | None = None,
    **spec: Any,
) -> Service:
    """With port 80 unless `ports` are given; `ingress` are its load balancer's addresses."""
    plain = {
        "metadata": metadata(name, namespace, labels=labels or {}, annotations=annotations or {}, **(meta or {})),
        "spec": {"ports": [{"port": 80}], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": each} for each in ingress]}},
    }
    return convert(plain, Service)


def endpoint(text: str, **fields: Any) -> Endpoint:
    """`10.0.0.1`, or `10.0.0.1@n1` when it is on a node."""
    address, _, node = text.partition("@")
    return convert({"addresses": [address], "nodeName": node or None, **fields}, Endpoint)


def endpoint_slice(
    service: str = "web",
    *endpoints: str | Endpoint | Fields,
    namespace: str = "default",
    name: str | None = None,
    ports: Sequence[Any] = ({"port": 80},),
    family: str | None = None,
    labels: Fields | None = None,
) -> EndpointSlice:
    """A slice of the Service. Endpoints as text as in `endpoint`; the family is IPv6 if they have colons."""
    plain = {
        "metadata": metadata(name or f"{service}-1", namespace, labels={SERVICE_LABEL: service, **(labels or {})}),
        "addressType": family
        or ("IPv6" if any(":" in each for each in endpoints if isinstance(each, str)) else "IPv4"),
        "endpoints": [endpoint(each) if isinstance(each, str) else each for each in endpoints],
        "ports": list(ports),
    }
    return convert(plain, EndpointSlice)


def policy(name: str = "policy", *, namespace: str = "default", **spec: Any) -> NetworkPolicy:
    """Of all pods of the namespace unless `podSelector` is given."""
    return convert({"metadata": metadata(name, namespace), "spec": {"podSelector": {}, **spec}}, NetworkPolicy)


def cluster_policy(name: str = "policy", **spec: Any) -> ClusterNetworkPolicy:
    """Of all pods, of tier Admin and priority 1, unless they are given."""
    usual = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    return convert({"metadata": metadata(name, None), "spec": {**usual, **spec}}, ClusterNetworkPolicy)


def node(
    name: str = "n1",
    *addresses: str,
    labels: Fields | None = None,
    external: Sequence[str] = (),
    meta: Fields | None = None,
    **spec: Any,
) -> Node:
    """`addresses` are its internal ones."""
    told = [
        ("Hostname", name),
        *(("ExternalIP", each) for each in external),
        *(("InternalIP", each) for each in addresses),
    ]
    plain = {
        "metadata": metadata(name, None, labels=labels or {}, **(meta or {})),
        "spec": spec,
        "status": {"addresses": [{"type": kind, "address": address} for kind, address in told]},
    }
    return convert(plain, Node)


def lease(number: int, **spec: Any) -> SubnetLease:
    """Of the node nNUMBER with 10.244.NUMBER.0/24, behind 192.168.0.NUMBER; networks and addresses may be text."""
    usual = {"node": f"n{number}", "subnet": f"10.244.{number}.0/24", "publicIP": f"192.168.0.{number}"}
    return make_lease(convert({**usual, **spec}, SubnetLeaseSpec, dec_hook=_parsed))


def _parsed(kind: type[Any], value: Any) -> Any:
    """An address or a network, which text stands for."""
    return value if isinstance(value, kind) else kind(value)
