"""Builders of small worlds: Services, EndpointSlices, nodes and tables in one line each.

Pods are in 10.0.0.0/8 and fd00:10::/64, cluster IPs in 172.30.0.0/16 and fd00:172::/112, the node n1 is 192.168.0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Literal

from percale.model.addresses import parse_network
from percale.model.endpoints import (
    SERVICE_LABEL,
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForNode,
    ForZone,
)
from percale.model.meta import Object, ObjectMeta
from percale.model.node import Node, NodeAddress, NodeStatus
from percale.model.pod import Protocol
from percale.model.service import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from percale.service.node_context import ZONE_LABEL, ServiceConfig
from percale.service.packet_lookup import Answer, resolve
from percale.service.resolver import ServiceResolver

PODS = ("10.0.0.0/8", "fd00:10::/64")
CLUSTER_IPS = ("172.30.0.0/16", "fd00:172::/112")


class Build:
    """Without state."""

    def service(
        self,
        name: str = "svc1",
        *ports: ServicePort,
        ip: str | None = "172.30.0.41",
        lb: Sequence[str] = (),
        created: str | None = None,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> Service:
        """In namespace ns1, with the port p80 unless others are given."""
        return Service(
            metadata=ObjectMeta(
                name=name,
                namespace="ns1",
                creationTimestamp=created,
                labels=labels or {},
                annotations=annotations or {},
            ),
            spec=ServiceSpec(ports=ports or (self.port(),), clusterIP=ip, **spec),
            status=ServiceStatus(
                loadBalancer=LoadBalancerStatus(ingress=tuple(LoadBalancerIngress(ip=each) for each in lb))
            ),
        )

    def port(self, number: int = 80, name: str | None = "p80", **fields: Any) -> ServicePort:
        return ServicePort(port=number, name=name, **fields)

    def slice(
        self,
        *endpoints: Endpoint | str,
        service: str = "svc1",
        index: int = 1,
        ports: Sequence[tuple[str | None, int | None, Protocol]] = (("p80", 80, "TCP"),),
        family: Literal["IPv4", "IPv6", "FQDN"] = "IPv4",
        labels: dict[str, str] | None = None,
    ) -> EndpointSlice:
        """Endpoints as text are ready: `10.180.0.1` anywhere, `10.180.0.1@n1` on n1."""
        return EndpointSlice(
            metadata=ObjectMeta(
                name=f"{service}-{index}", namespace="ns1", labels={SERVICE_LABEL: service, **(labels or {})}
            ),
            addressType=family,
            endpoints=tuple(self.endpoint(each) if isinstance(each, str) else each for each in endpoints),
            ports=tuple(EndpointPort(name=name, port=number, protocol=protocol) for name, number, protocol in ports),
        )

    def endpoint(
        self,
        text: str,
        *,
        ready: bool | None = None,
        serving: bool | None = None,
        terminating: bool | None = None,
        nodes: Sequence[str] = (),
        zones: Sequence[str] = (),
    ) -> Endpoint:
        address, _, node = text.partition("@")
        hints = EndpointHints(
            forNodes=tuple(ForNode(name=each) for each in nodes), forZones=tuple(ForZone(name=each) for each in zones)
        )
        return Endpoint(
            addresses=(address,),
            conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
            nodeName=node or None,
            hints=hints if nodes or zones else None,
        )

    def draining(self, text: str) -> Endpoint:
        """Serving while it ends."""
        return self.endpoint(text, ready=False, serving=True, terminating=True)

    def dead(self, text: str) -> Endpoint:
        """Ending, and serving no more."""
        return self.endpoint(text, ready=False, serving=False, terminating=True)

    def node(self, *addresses: str, name: str = "n1", zone: str | None = None, external: Sequence[str] = ()) -> Node:
        told = addresses or ("192.168.0.2", "192.168.1.2", "2001:db8::1", "2001:db8:1::2")
        return Node(
            metadata=ObjectMeta(name=name, labels={ZONE_LABEL: zone} if zone else {}),
            status=NodeStatus(
                addresses=(
                    NodeAddress(type="Hostname", address=name),
                    *(NodeAddress(type="ExternalIP", address=each) for each in external),
                    *(NodeAddress(type="InternalIP", address=each) for each in told),
                )
            ),
        )

    def table(self, *objects: Object, **config: Any) -> ServiceResolver:
        """Of node n1, whose Node is there unless a Node is given."""
        nodes = () if any(isinstance(each, Node) for each in objects) else (self.node(),)
        return ServiceResolver(self.config(**config), (*nodes, *objects))

    def config(self, **config: Any) -> ServiceConfig:
        ports = config.pop("node_port_addresses", None)
        config.setdefault("service_cidrs", tuple(map(parse_network, CLUSTER_IPS)))
        return ServiceConfig(
            node="n1",
            pod_cidrs=tuple(map(parse_network, PODS)),
            node_port_addresses=None if ports is None else tuple(map(parse_network, ports)),
            **config,
        )

    def ask(
        self, table: ServiceResolver, source: str, target: str, port: int = 80, protocol: Protocol = "TCP"
    ) -> Answer:
        return resolve(table, ip_address(source), ip_address(target), port, protocol)

    def brief(
        self, table: ServiceResolver, source: str, target: str, port: int = 80, protocol: Protocol = "TCP"
    ) -> str:
        """`10.180.0.1:80 10.180.0.2:80`, with ` masquerade` after it; else the action."""
        answer = self.ask(table, source, target, port, protocol)
        if answer.action != "endpoints":
            assert answer.endpoints == ()
            assert not answer.masquerade
            return answer.action
        return " ".join((*answer.endpoints, *(("masquerade",) if answer.masquerade else ())))


build = Build()
