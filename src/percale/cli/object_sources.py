"""Where commands get a cluster's objects from: manifests (`-f`), or a lab that runs (`--lab`).

files ─ decode ─▶ entries ─┐
lab ─ its API ─▶ entries ──┴▶ explain/world.py ─▶ World ─ what controllers would make ─▶ ServiceWorld
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from percale.cli.lab_documents import pod_networks_of_labs
from percale.cli.left_out import print_left_out
from percale.cli.options import lab_of_source, validation
from percale.controllers.offline import with_generated_slices
from percale.explain.service_world import NO_NODE, ServiceWorld, pod_networks
from percale.explain.why.targets import TargetLookup
from percale.explain.world import Tool, World, overlaid
from percale.lab.api.client import ask, get_objects
from percale.lab.commands import lab_words
from percale.lab.run_dir import locate
from percale.lab.spec.topology import Lab, topology
from percale.model.addresses import IPNetwork
from percale.model.kinds import KINDS, kinds_of
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.files import read
from percale.model.manifest.load import LoadedManifests, load_manifests
from percale.model.meta import Object
from percale.model.netconf import NetworkConfig, network_config, parse_network_config
from percale.model.node import Node
from percale.model.service import Service
from percale.policy.evaluator import Evaluator
from percale.service.node_context import ServiceConfig

_LAB_KINDS = (
    "namespaces",
    "nodes",
    "pods",
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "cronjobs",
    "jobs",
    "networkpolicies",
    "clusternetworkpolicies",
    "services",
    "endpointslices",
    "endpoints",
    "subnetleases",
)
KINDS_AND_LAB = {**KINDS, **kinds_of(Lab)}


def load(
    files: Sequence[str],
    lab: str | None = None,
    changed: Sequence[str] = (),
    pods: Sequence[IPNetwork] | None = None,
    *,
    policies: bool = True,
) -> World:
    """The world of these files, or of a lab; objects of `changed` replace those of the same kind and name.

    `pods`: the networks of pods without an address; by default, what lab and files say.
    `policies`: those that are not enforced are warned of. Raises BadInput, NoSuchLab.
    """
    before = _from_lab(lab) if lab is not None else _from_files(files, policies=policies)
    after = _from_files(changed, policies=policies)
    tool = Tool("percale lab", lab_words(lab)) if lab is not None else None
    return overlaid(before, after, _configured(before, after, lab) if pods is None else pods, tool)


def _from_files(files: Sequence[str], *, policies: bool) -> LoadedManifests:
    given = read(files)
    loaded = load_manifests(given.documents, KINDS_AND_LAB, unreadable=given.faults).valid(validation())
    print_left_out(loaded.warnings(validation(), policies=policies))
    return loaded


def _from_lab(name: str) -> LoadedManifests:
    """Objects that are in no file."""
    wanted = [{"kind": kind} for kind in _LAB_KINDS]
    answer = get_objects(locate(name), wanted, everywhere=True)
    items = [obj for section in answer["sections"] for obj in section["objects"]]
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()
    return LoadedManifests(decode_manifest(document, f"lab {name}", kinds=KINDS_AND_LAB).entries)


def lookup(world: World, lab: str | None) -> TargetLookup:
    """For names of this world's ends."""
    return TargetLookup(
        Evaluator(world.objects),
        world.objects,
        world.made_up,
        _hosts(world, lab),
        world.owned,
        world.selectors,
        world.networks,
    )


def _configured(before: LoadedManifests, after: LoadedManifests, lab: str | None) -> Iterator[IPNetwork]:
    """The pod networks of the lab, or of a net-conf.json and a Lab document. Raises BadNetworkConfig."""
    if lab is not None:
        network = _of_lab(lab, (each.object for each in before.entries))[1]
        yield from network.networks if network is not None else ()
    for loaded in (before, after):
        for file, text in loaded.networks:
            yield from parse_network_config(text, file).networks
        yield from pod_networks_of_labs(loaded.entries)


def _hosts(world: World, lab: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """The hosts outside: the lab's, or those of a Lab document among the manifests."""
    if lab is not None:
        return {name: tuple(each) for name, each in ask(locate(lab), "hosts")["hosts"].items()}
    for each in world.objects:
        if isinstance(each, Lab):
            return {host.name: (str(host.address.ip), str(host.address6.ip)) for host in topology(each.spec).hosts}
    return None


def load_services(files: Sequence[str], lab: str | None) -> ServiceWorld:
    """Without files, of a lab. Raises BadInput, NoSuchLab."""
    place = lab_of_source(files, lab)
    return service_world(load(files, place, policies=False), place)


def pod_hint(services: ServiceWorld, service: Service, port: str, command: str, options: str) -> str:
    """The command that asks for a pod of a Service that translates nothing."""
    pod = services.pod_instead(service, port)
    return f"ask for a pod behind it: percale {command} {pod}{options}" if pod is not None else "no pod is behind it"


def service_world(
    world: World, lab: str | None, said: ServiceConfig | None = None, pods: tuple[IPNetwork, ...] | None = None
) -> ServiceWorld:
    """The world with what its controllers would make. Raises BadInput."""
    said = said or ServiceConfig(NO_NODE)
    if lab is not None:
        config, network = _of_lab(lab, world.objects)
        merged = replace(_merged(said, config), pod_cidrs=config.pod_cidrs if pods is None else pods)
        return ServiceWorld(merged, world.objects, network)
    config = replace(said, pod_cidrs=pod_networks(world.objects) if pods is None else pods)
    return ServiceWorld(config, tuple(with_generated_slices(world.objects, config.service_cidrs)))


def _merged(said: ServiceConfig, lab: ServiceConfig) -> ServiceConfig:
    ports = said.node_port_addresses
    return replace(
        lab,
        service_cidrs=said.service_cidrs or lab.service_cidrs,
        node_port_addresses=ports if ports is not None else lab.node_port_addresses,
        masquerade_all=said.masquerade_all or lab.masquerade_all,
    )


def _of_lab(lab: str, objects: Iterable[Object]) -> tuple[ServiceConfig, NetworkConfig | None]:
    """What its agents have: they differ by name alone. None: there is no node. Raises BadInput."""
    from percale.agent.config import loader

    place = locate(lab)
    for node in sorted(each.metadata.name for each in objects if isinstance(each, Node)):
        if place.node(node).config.exists():
            config = loader.load(place.node(node).config, {}, {})
            network = network_config(config.network or {})
            return loader.service_config(config, network), network
    return ServiceConfig(NO_NODE), None
