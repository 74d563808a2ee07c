"""Input of a lab: Kubernetes manifests, a Lab document, a network configuration. Called by `up` and the verbs.

text ─▶ net-conf.json? ──────────────────────────────┐
     └▶ decode ─────────▶ ConfigMap kube-flannel-cfg ─┼─▶ network, wiring
                      ├─▶ kind: Lab ──────────────────┴─▶ machines
                      └─▶ everything else ──────────────▶ objects of the store
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadManifest
from percale.lab.run_dir import LabDir
from percale.lab.spec.topology import DEFAULT_NETWORK, Host, Lab, LabNode, LabSpec, SegmentSpec
from percale.model.configmap import ConfigMap
from percale.model.field_path import format_field_path
from percale.model.ip_pool import IPPool, IPReservation
from percale.model.kinds import KINDS, kinds_of
from percale.model.manifest.decode import ManifestEntry, Source
from percale.model.manifest.files import Document
from percale.model.manifest.json_text import read_json_text
from percale.model.manifest.load import LoadedManifests, load_manifests
from percale.model.manifest.strictness import Validation
from percale.model.manifest.syntax_tree import Node as SyntaxNode
from percale.model.manifest.unknown_fields import unread_fields
from percale.model.meta import Object, ObjectKey, OwnerReference
from percale.model.netconf import NET_CONF, network_config, parse_network_config
from percale.model.node import Node
from percale.model.pod import Pod, PodStatus
from percale.model.workloads import Job, ReplicaSet
from percale.objects.changes import named
from percale.suggestion import suggest

CNI_CONF = "cni-conf.json"
Wiring = Literal["routed", "bridge"]

_KINDS = {**KINDS, **kinds_of(Lab)}


class Input(Struct, frozen=True):
    """All that `percale lab up` was given, checked; `skipped` are documents that mean nothing here, with the reason."""

    found: tuple[ManifestEntry, ...]
    lab: LabSpec
    network: dict[str, Any]
    wiring: Wiring
    skipped: tuple[str, ...] = ()

    @property
    def objects(self) -> tuple[Object, ...]:
        """Without the places where they are written."""
        return tuple(each.object for each in self.found)


class _Network(Struct, frozen=True):
    """A network configuration and where it stands."""

    where: str
    network: dict[str, Any]
    wiring: Wiring = "routed"


def read_input(
    documents: Sequence[Document],
    validate: Validation = "strict",
    unreadable: Sequence[BadManifest] = (),
    *,
    api_server: bool = False,
) -> Input:
    """Everything of these documents, which go to an API server or stay here. Raises BadManifest, BadNetworkConfig."""
    loaded = load_manifests(documents, _KINDS, unreadable=unreadable).valid(validate)
    for each in loaded.entries:
        if isinstance(each.object, Lab):
            _check_words(loaded.written.node(each.source), each.source)
    found = loaded.entries
    networks = [_bare_network(file, text) for file, text in loaded.networks]
    labs = [each for each in found if isinstance(each.object, Lab)]
    for each in found:
        networks += _network_of(each)
    _at_most_one("Lab document", [str(each.source) for each in labs])
    _at_most_one("network configuration", [network.where for network in networks])
    chosen = networks[0] if networks else _Network("the default", DEFAULT_NETWORK)
    if networks:
        network_config(chosen.network, chosen.where)
    return Input(
        found=tuple(_as_created(named(each for each in found if each not in labs))),
        lab=next((each.object.spec for each in labs if isinstance(each.object, Lab)), LabSpec()),
        network=chosen.network,
        wiring=chosen.wiring,
        skipped=(*loaded.notes(validate), *(_not_sent(loaded) if api_server else ())),
    )


def read_objects(
    documents: Iterable[Document],
    namespace: str,
    lab_dir: LabDir,
    validate: Validation = "strict",
    *,
    api_server: bool = False,
) -> tuple[list[ManifestEntry], list[str]]:
    """Objects to apply to a lab that runs, and what was left out. Raises BadManifest."""
    loaded = load_manifests(documents, _KINDS, namespace=namespace)
    if loaded.networks:
        file, _ = loaded.networks[0]
        raise BadManifest("a running lab keeps its network", where=file, hint=f"start another: {_another(file)}")
    found = loaded.valid(validate).not_empty().entries
    for each in found:
        if isinstance(each.object, Lab):
            hint = f"use {lab_dir.command('add-node NAME')} and {lab_dir.command('remove-node NAME')}"
            raise BadManifest("a running lab keeps its machines", where=str(each.source), hint=hint)
    return list(_as_created(named(found))), [*loaded.notes(validate), *(_not_sent(loaded) if api_server else ())]


def without_foreign_nodes(
    entries: Iterable[ManifestEntry], machines: Collection[str]
) -> tuple[list[ManifestEntry], list[str]]:
    """Without the Nodes of another cluster, on which no pod could run, and a line for each of them."""
    kept, notes = [], []
    for each in entries:
        if isinstance(each.object, Node) and each.object.metadata.name not in machines:
            notes.append(f"{each.source}: Node {each.object.metadata.name} is no machine of this lab, left out")
        else:
            kept.append(each)
    return kept, notes


def without_owner(
    entries: Iterable[ManifestEntry], known: Callable[[str, ObjectKey], bool] = lambda _, __: False
) -> list[str]:
    """A line for each pod, ReplicaSet or Job that is garbage-collected: what controls it is not there, nor among these."""
    here = {(each.object.KIND, each.object.key): each for each in entries}

    def lost(obj: Object) -> OwnerReference | None:
        """The owner that is missing, or that of an owner that will be collected itself."""
        owner = next((each for each in obj.metadata.ownerReferences if each.controller), None)
        if owner is None or not isinstance(obj, Pod | ReplicaSet | Job):
            return None
        key = ObjectKey(obj.metadata.namespace, owner.name)
        if (owner.kind, key) in here:
            return lost(here[owner.kind, key].object)
        return None if known(owner.kind, key) else owner

    return [
        f"{each.source}: warning: {each.object.KIND} {each.object.key} is deleted at once: {owner.kind} {owner.name}, which"
        " owns it, is not there; apply that too, or take metadata.ownerReferences out"
        for each in here.values()
        if (owner := lost(each.object)) is not None
    ]


def _as_created(entries: Iterable[ManifestEntry]) -> Iterator[ManifestEntry]:
    """What an exported pod says of another cluster's addresses and readiness is not so here."""
    for each in entries:
        pod = each.object
        yield replace(each, object=replace(pod, status=PodStatus())) if isinstance(pod, Pod) else each


def _not_sent(loaded: LoadedManifests) -> Iterator[str]:
    """A line for each object with fields that the model does not have: an API server would get a part of it."""
    for each in loaded.entries:
        paths = unread_fields(type(each.object), loaded.written.value(each.source))
        if fields := dict.fromkeys(format_field_path(path) for path in paths):
            yield f"{each.source}: {', '.join(fields)} left out; kubectl apply sends all of it"


def other_networks(entries: Iterable[ManifestEntry], network: Mapping[str, Any], wiring: str) -> list[str]:
    """A line for each ConfigMap that says another network than the one of the lab that runs. Raises BadNetworkConfig."""
    return [
        f"configmap/{entry.object.metadata.name} does not change this lab: a running lab keeps its network;"
        f" a new one takes it: {_another(entry.source.file)}"
        for entry in entries
        for other in _network_of(entry)
        if (other.network, other.wiring) != (network, wiring)
    ]


def without_pools(entries: Iterable[ManifestEntry]) -> list[str]:
    """A line for each object of IP pools: a lab's agents have none."""
    return [
        f"{each.source}: warning: {each.object.KIND} {each.object.metadata.name} has no effect:"
        " a lab's agents run without ipPools"
        for each in entries
        if isinstance(each.object, IPPool | IPReservation)
    ]


def _another(file: str) -> str:
    """The command that starts a lab beside this one."""
    return f"percale lab up --lab another -f {'-' if file == 'stdin' else shlex.quote(file)}"


def _check_words(root: SyntaxNode, source: Source) -> None:
    """Every field of a Lab document means something. Raises BadManifest with the nearest one that does."""
    spec = root.get("spec")
    if spec is None:
        return
    _check_fields(spec, LabSpec, "spec", source)
    for name, kind in (("segments", SegmentSpec), ("nodes", LabNode), ("hosts", Host)):
        members = spec.get(name)
        for number, member in enumerate(members.items if members is not None else ()):
            _check_fields(member, kind, f"spec.{name}[{number}]", source)


def _check_fields(node: SyntaxNode, kind: type[Struct], path: str, source: Source) -> None:
    for key, _ in node.entries:
        if key.text not in kind.__struct_fields__:
            hint = suggest(key.text, kind.__struct_fields__)
            raise BadManifest(f"{path}: unknown field {key.text!r}", where=f"{source.file}:{key.line}", hint=hint)


def _bare_network(file: str, text: str) -> _Network:
    """Raises BadNetworkConfig."""
    parse_network_config(text, file)
    return _Network(file, read_json_text(text))


def _network_of(found: ManifestEntry) -> Iterator[_Network]:
    """A Lab document's network, or flannel's ConfigMap, which configures the lab as it would the cluster."""
    obj = found.object
    if isinstance(obj, Lab) and obj.spec.network is not None:
        network_config(obj.spec.network, f"{found.source} spec.network")
        yield _Network(f"{found.source} spec.network", obj.spec.network)
    elif isinstance(obj, ConfigMap) and NET_CONF in obj.data:
        parse_network_config(obj.data[NET_CONF], f"{found.source} {NET_CONF}")
        wiring = _wiring(obj.data.get(CNI_CONF), f"{found.source} {CNI_CONF}")
        yield _Network(f"{found.source} {NET_CONF}", read_json_text(obj.data[NET_CONF]), wiring)


def _wiring(text: str | None, where: str) -> Wiring:
    """A conflist whose plugin is flannel's wires pods to a bridge, unless it delegates to something else."""
    if text is None:
        return "routed"
    from percale.cni.conflist import wiring_of  # noqa: PLC0415 -- most labs have none

    wiring: Wiring = wiring_of(text, where)
    return wiring


def _at_most_one(what: str, places: Sequence[str]) -> None:
    if len(places) > 1:
        raise BadManifest(f"two of them have a {what}: {places[0]} and {places[1]}", hint="keep one")
