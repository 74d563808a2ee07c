"""Services as one node sees them, from manifests or from a lab that runs. Called by the commands that are about Services.

files ─ worlds.load ─▶ objects ─ played (controllers, where there were none) ─┐
lab ─ worlds.load ─▶ objects ─────────────────────────────────────────────────┼▶ ServiceResolver
what the command line says, else the lab's agent.yaml, else the Nodes ─▶ ServiceConfig ┘
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cached_property
from ipaddress import collapse_addresses, ip_network

import click
from msgspec import Struct
from msgspec.structs import replace

from percale.cli.left_out import tell_left_out
from percale.cli.worlds import World, load
from percale.controllers.offline import with_generated_slices
from percale.errors import BadInput, NotFound
from percale.explain.why.masquerade_addresses import Face
from percale.lab.run_dir import locate
from percale.model.addresses import IPNetwork
from percale.model.endpoints import SERVICE_LABEL, Endpoints, EndpointSlice
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.netconf import NetworkConfig, network_config
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.service.node_context import ServiceConfig, facts_of_node
from percale.service.resolver import ServiceResolver

NO_NODE = ""
"""As a node's name: nothing is on it, and no hint is for it."""


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

    def faces(self, node: str) -> list[Face]:
        """The packed addresses that a node may put in the place of a client's, towards pods of other nodes."""
        machines = (each for each in self.objects if isinstance(each, Node) and each.metadata.name == node)
        own = [Face(address, node) for each in machines for address in facts_of_node(each).addresses]
        options = self.network.options if self.network is not None else None
        if options is None or not options.has_device:
            return own
        specs = (each.spec for each in self.objects if isinstance(each, SubnetLease) and each.spec.node == node)
        subnets = (net for spec in specs for net in spec.subnets)
        tunnel = [Face(net.network_address.packed, node, is_tunnel=True) for net in subnets]
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

    def service(self, text: str, namespace: str | None) -> Service:
        """`NAME`, `NS/NAME`, `svc/NS/NAME`. Raises NotFound with the nearest name that is known."""
        space, _, name = text.removeprefix("svc/").removeprefix("service/").rpartition("/")
        key = ObjectKey(space or namespace or DEFAULT_NAMESPACE, name)
        found = self.services.get(key)
        if found is not None:
            return found
        nearly = difflib.get_close_matches(name, sorted({each.name for each in self.services}), n=1)
        near = sorted((each.namespace != key.namespace, str(each)) for each in self.services if each.name in nearly)
        raise NotFound(f"there is no Service {key}", hint=f"did you mean {near[0][1]}?" if near else None)


def load_services(files: Sequence[str], lab: str | None, said: ServiceConfig | None = None) -> ServiceWorld:
    """Without files, the lab of this name, or `lab`. `said` is what the command line says of the configuration.

    Raises BadInput, NoSuchLab.
    """
    if files and lab is not None:
        raise click.UsageError("either -f or --lab")
    place = None if files else lab or "lab"
    world = load(files, place)
    tell_left_out(world.left_out)
    return settled(world, place, said)


def settled(world: World, lab: str | None, said: ServiceConfig | None = None) -> ServiceWorld:
    """The world with what its controllers would make. Raises BadInput."""
    said = said or ServiceConfig(NO_NODE)
    if lab is not None:
        config, network = _of_lab(lab, world.objects)
        return ServiceWorld(_merged(said, config), world.objects, network)
    config = said if said.pod_cidrs else replace(said, pod_cidrs=pod_networks(world.objects))
    return ServiceWorld(config, tuple(with_generated_slices(world.objects, config.service_cidrs)))


def _merged(said: ServiceConfig, lab: ServiceConfig) -> ServiceConfig:
    ports = said.node_port_addresses
    return replace(
        lab,
        pod_cidrs=said.pod_cidrs or lab.pod_cidrs,
        service_cidrs=said.service_cidrs or lab.service_cidrs,
        node_port_addresses=ports if ports is not None else lab.node_port_addresses,
        masquerade_all=said.masquerade_all or lab.masquerade_all,
    )


def _of_lab(lab: str, objects: Iterable[Object]) -> tuple[ServiceConfig, NetworkConfig | None]:
    """What its agents have: they differ by name alone. None: there is no node. Raises BadInput."""
    from percale.agent.config import loader as configuring

    place = locate(lab)
    for node in sorted(each.metadata.name for each in objects if isinstance(each, Node)):
        if place.node(node).config.exists():
            config = configuring.load(place.node(node).config, {}, {})
            network = network_config(config.network or {})
            return configuring.service_config(config, network), network
    return ServiceConfig(NO_NODE), None


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
