"""Builders of small worlds: Services, EndpointSlices, nodes and tables in one line each.

Pods are in 10.0.0.0/8 and fd00:10::/64, cluster IPs in 172.30.0.0/16 and fd00:172::/112, the node n1 is 192.168.0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from tests.builders import endpoint, endpoint_slice, node, service

from percale.model.addresses import parse_network
from percale.model.endpoints import Endpoint, EndpointPort, EndpointSlice
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.pod import Protocol
from percale.model.service import Service, ServicePort
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
        **fields: Any,
    ) -> Service:
        """In namespace ns1, with the port p80 unless others are given."""
        meta, ports = {"creationTimestamp": created}, ports or (self.port(),)
        return service(name, namespace="ns1", ports=ports, clusterIP=ip, ingress=lb, meta=meta, **fields)

    def port(self, number: int = 80, name: str | None = "p80", **fields: Any) -> ServicePort:
        return ServicePort(port=number, name=name, **fields)

    def slice(
        self,
        *endpoints: Endpoint | str,
        service: str = "svc1",
        index: int = 1,
        ports: Sequence[tuple[str | None, int | None, Protocol]] = (("p80", 80, "TCP"),),
        family: str = "IPv4",
        **fields: Any,
    ) -> EndpointSlice:
        """Endpoints as text are ready: `10.180.0.1` anywhere, `10.180.0.1@n1` on n1."""
        made = [EndpointPort(name=name, port=number, protocol=protocol) for name, number, protocol in ports]
        fields = {"namespace": "ns1", "name": f"{service}-{index}", "ports": made, "family": family, **fields}
        return endpoint_slice(service, *endpoints, **fields)

    def endpoint(
        self, text: str, *, nodes: Sequence[str] = (), zones: Sequence[str] = (), **conditions: Any
    ) -> Endpoint:
        hints = {"forNodes": [{"name": each} for each in nodes], "forZones": [{"name": each} for each in zones]}
        return endpoint(text, conditions=conditions, hints=hints if nodes or zones else None)

    def draining(self, text: str) -> Endpoint:
        """Serving while it ends."""
        return self.endpoint(text, ready=False, serving=True, terminating=True)

    def dead(self, text: str) -> Endpoint:
        """Ending, and serving no more."""
        return self.endpoint(text, ready=False, serving=False, terminating=True)

    def node(self, *addresses: str, name: str = "n1", zone: str | None = None, external: Sequence[str] = ()) -> Node:
        told = addresses or ("192.168.0.2", "192.168.1.2", "2001:db8::1", "2001:db8:1::2")
        return node(name, *told, labels={ZONE_LABEL: zone} if zone else {}, external=external)

    def table(self, *objects: Object, **config: Any) -> ServiceResolver:
        """Of node n1, whose Node is there unless a Node is given."""
        nodes = () if any(isinstance(each, Node) for each in objects) else (self.node(),)
        return ServiceResolver(self.config(**config), (*nodes, *objects))

    def config(self, **config: Any) -> ServiceConfig:
        ports = config.pop("node_port_addresses", None)
        config.setdefault("pod_cidrs", tuple(map(parse_network, PODS)))
        config.setdefault("service_cidrs", tuple(map(parse_network, CLUSTER_IPS)))
        return ServiceConfig(
            node="n1", node_port_addresses=None if ports is None else tuple(map(parse_network, ports)), **config
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
