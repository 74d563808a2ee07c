"""Services as one node sees them, of a cluster's objects. Made by `cli/object_sources.py` for the commands about Services."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadInput, NotFound
from percale.model.addresses import IPNetwork
from percale.model.endpoints import SERVICE_LABEL, Endpoints, EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.service.node_context import ServiceConfig, facts_of_node
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import PortName, facts_of_service
from percale.suggestion import nearest, some_of

NO_NODE = ""
"""As a node's name: nothing is on it, and no hint is for it."""


class MasqueradeAddress(NamedTuple):
    """An address that a node masquerades as."""

    address: bytes
    node: str
    is_tunnel: bool = False
    """Of its tunnel device: the same node for policies, but no block with its other address means it."""

    def __str__(self) -> str:
        text = str(ip_address(self.address))
        return f"{text}, the tunnel's end on {self.node}" if self.is_tunnel else f"node/{self.node} ({text})"


class ServiceWorld(Struct, frozen=True, dict=True):
    """Who is who, and what Services mean where."""

    config: ServiceConfig
    objects: tuple[Object, ...]
    network: NetworkConfig | None = None
    """The lab's."""

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """By name."""
        return tuple(sorted(each.metadata.name for each in self.objects if isinstance(each, Node)))

    @cached_property
    def services(self) -> dict[ObjectKey, Service]:
        return {each.key: each for each in self.objects if isinstance(each, Service)}

    @cached_property
    def behind(self) -> dict[ObjectKey, list[Object]]:
        """Each Service's slices and Endpoints."""
        found: dict[ObjectKey, list[Object]] = {}
        for each in self.objects:
            if isinstance(each, EndpointSlice):
                key = ObjectKey(each.metadata.namespace, each.metadata.labels.get(SERVICE_LABEL, ""))
                found.setdefault(key, []).append(each)
            elif isinstance(each, Endpoints):
                found.setdefault(each.key, []).append(each)
        return found

    def pod_instead(self, service: Service, port: str) -> str | None:
        """A pod behind it with this port, as `NS/POD:PORT`: whom to ask for where nothing is translated. None: there is none."""
        slices = [each for each in self.behind.get(service.key, ()) if isinstance(each, EndpointSlice)]
        wanted, slash, protocol = port.partition("/")
        numbers = (each.port for group in slices for each in group.ports if each.name == wanted and wanted)
        number = next((each for each in numbers if each is not None), wanted)
        targets = (each.targetRef for group in slices for each in group.endpoints)
        pods = [each.name for each in targets if each is not None and each.kind == Pod.KIND and each.name]
        return f"{service.metadata.namespace}/{min(pods)}:{number}{slash}{protocol}" if pods else None

    def masquerade_addresses(self, node: str) -> list[MasqueradeAddress]:
        """The packed addresses that a node may put in the place of a client's, towards pods of other nodes."""
        machines = (each for each in self.objects if isinstance(each, Node) and each.metadata.name == node)
        own = [MasqueradeAddress(address, node) for each in machines for address in facts_of_node(each).addresses]
        options = self.network.options if self.network is not None else None
        if options is None or not options.has_device:
            return own
        specs = (each.spec for each in self.objects if isinstance(each, SubnetLease) and each.spec.node == node)
        subnets = (net for spec in specs for net in spec.subnets)
        tunnel = [MasqueradeAddress(net.network_address.packed, node, is_tunnel=True) for net in subnets]
        return [*own, *tunnel] if options.uses_underlay_routes else tunnel

    def table(self, node: str) -> ServiceResolver:
        """Of all Services, as this node has it."""
        return ServiceResolver(replace(self.config, node=node), self.objects)

    def table_of(self, service: Service, node: str) -> ServiceResolver:
        """The same of one Service, as if there were no other."""
        nodes = (each for each in self.objects if isinstance(each, Node | SubnetLease))
        return ServiceResolver(replace(self.config, node=node), (*nodes, service, *self.behind.get(service.key, ())))

    def node(self, asked: str | None) -> str:
        """The node that is asked for, else the first one. Raises BadInput when there are nodes, but not this one."""
        if asked is None:
            return self.nodes[0] if self.nodes else NO_NODE
        if self.nodes and asked not in self.nodes:
            raise BadInput(f"there is no node {asked!r}", hint=f"there are {', '.join(self.nodes)}")
        return asked

    def service(self, key: ObjectKey) -> Service:
        """Raises NotFound with the nearest name that is known."""
        found = self.services.get(key)
        if found is not None:
            return found
        similar = nearest(key.name, sorted({each.name for each in self.services}))
        near = sorted((each.namespace != key.namespace, str(each)) for each in self.services if each.name == similar)
        hint = f"did you mean svc/{near[0][1]}?" if near else some_of(map(str, self.services))
        raise NotFound(f"there is no Service {key}", hint=hint or "there are no Services at all")


def service_at(objects: Iterable[Object], address: bytes, port: int, protocol: str) -> tuple[PortName, int] | None:
    """The service port, with its number, that leads a packet to there away before any policy sees it."""
    everything = list(objects)
    of_node = any(address in facts_of_node(each).addresses for each in everything if isinstance(each, Node))
    for service in everything:
        for spec in facts_of_service(service, ServiceConfig("")).ports if isinstance(service, Service) else ():
            for vip in spec.vips:
                # A node's address is no external IP, unless the agents' configuration, which is not known here, says so.
                here = of_node if vip.kind == "node-port" else vip.address == address
                here = here and not (of_node and vip.kind == "external")
                if here and (vip.port, spec.name.protocol) == (port, protocol):
                    return spec.name, next(each.port for each in spec.vips if each.kind != "node-port")
    return None


def pod_networks(objects: Iterable[Object]) -> tuple[IPNetwork, ...]:
    """Those of the nodes, and the pods that have an address of their own elsewhere."""
    networks: list[IPNetwork] = []
    for each in objects:
        if isinstance(each, Node):
            networks += each.pod_cidrs
        elif isinstance(each, Pod) and not each.spec.hostNetwork:
            networks += map(ip_network, each.ips)
    return tuple(
        network
        for version in (4, 6)
        for network in collapse_addresses([each for each in networks if each.version == version])  # type: ignore[type-var]
    )
