"""A cluster as `percale why` and `percale matrix` see it: objects, with pods and addresses for workloads that have none.

    objects of files or of a lab (cli/object_sources.py) ─ overlaid with changed ones ─▶ pods of workloads ─▶ addresses ─▶ World

Manifests have workloads but no pods yet: their pods are those that a lab would make of them, with addresses made up
(`made_up_addresses.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TypeAlias, cast

from msgspec import Struct
from msgspec.structs import replace

from percale.controllers import workloads
from percale.controllers.workloads import Create, Workloads
from percale.explain.made_up_addresses import MadeUpAddresses
from percale.explain.pod_networks import PodNetworks, networks_of_pods
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.condition import Condition
from percale.model.manifest.decode import DEFAULT_NAMESPACE, Source
from percale.model.manifest.load import LoadedManifests
from percale.model.manifest.written_objects import WrittenObjects
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod, PodIP
from percale.model.selector import LabelSelector
from percale.model.service import Service
from percale.model.workloads import CronJob, DaemonSet, Deployment, Job, PodMaker, ReplicaSet, StatefulSet, Workload
from percale.policy.compiled_policy import PolicyKey, RuleRef
from percale.policy.kinds.registry import POLICY_KINDS
from percale.policy.rule_terms import Block

Identity: TypeAlias = tuple[str, ObjectKey]
"""Kind and key."""

_MOST_PODS = 10_000
"""Of one workload; they are all alike."""


class Tool(Struct, frozen=True):
    """What changes these objects: kubectl, or a lab's own verbs."""

    program: str = "kubectl"
    options: str = ""
    """Behind the verb: which lab."""

    def command(self, verb: str, arguments: str) -> str:
        """A command line that works as it is."""
        return f"{self.program} {verb}{self.options} {arguments}"


class World(Struct, frozen=True):
    """All objects, where they are written, and what of them is made up."""

    objects: tuple[Object, ...]
    sources: Mapping[Identity, Source]
    written: WrittenObjects
    made_up: frozenset[ObjectKey] = frozenset()
    """Pods that have no address yet: the one that they have here is not the one they will get."""
    networks: PodNetworks = PodNetworks()
    """Of those pods."""
    tool: Tool = Tool()

    @property
    def owned(self) -> frozenset[ObjectKey]:
        """Pods that a workload makes."""
        return frozenset(each.key for each in self.objects if isinstance(each, Pod) and _owner(each) is not None)

    @property
    def selectors(self) -> tuple[tuple[str, LabelSelector], ...]:
        """What Services and workloads select, by namespace."""
        return tuple(_selectors(self.objects))

    def place(self, rule: RuleRef) -> str | None:
        """`file:line` of a rule, where a file has it."""
        source = self.source(rule.policy)
        return f"{source.file}:{self.written.line(source, rule.field)}" if source is not None else None

    def policy_place(self, policy: PolicyKey) -> str | None:
        """`file:line` of a policy, where a file has it."""
        source = self.source(policy)
        return str(source) if source is not None else None

    def source(self, policy: PolicyKey) -> Source | None:
        """Where a policy is written."""
        kind, key = POLICY_KINDS.object_key(policy)
        return self.sources.get((kind.KIND, key))


def overlaid(
    before: LoadedManifests, after: LoadedManifests, configured: Iterable[IPNetwork] = (), tool: Tool | None = None
) -> World:
    """The world of `before`; objects of `after` replace those of the same kind and name.

    `configured`: pod networks that objects need not say; read when a pod has no address. Raises BadInput, BadNetworkConfig.
    """
    old = {identity_of(each.object): each.object for each in before.entries}
    objects = old | {identity_of(each.object): _where_it_was(each.object, old) for each in after.entries}
    renewed = {
        identity for identity, obj in objects.items() if isinstance(obj, PodMaker) and _differs(obj, old.get(identity))
    }
    written = WrittenObjects((*before.documents, *after.documents))
    sources = {
        identity_of(each.object): each.source
        for loaded in (before, after)
        if loaded.documents  # a lab's objects are in no file
        for each in loaded.entries
    }
    everything = tuple(_with_pods(list(objects.values()), renewed))
    if all(each.ips for each in everything if isinstance(each, Pod)):
        return World(everything, sources, written, tool=tool or Tool())
    networks = networks_of_pods(everything, configured)
    everything, made_up = _with_addresses(everything, networks)
    return World(everything, sources, written, made_up, networks, tool or Tool())


def identity_of(obj: Object) -> Identity:
    """Kind and key."""
    return (obj.KIND, obj.key)


def _where_it_was(obj: Object, old: Mapping[Identity, Object]) -> Object:
    """A pod that a manifest changes keeps its node and its addresses."""
    was = old.get(identity_of(obj))
    if not isinstance(obj, Pod) or not isinstance(was, Pod) or obj.ips:
        return obj
    return replace(obj, status=was.status, spec=replace(obj.spec, nodeName=obj.spec.nodeName or was.spec.nodeName))


def _differs(obj: PodMaker, old: Object | None) -> bool:
    return old is not None and obj.spec != cast(PodMaker, old).spec


# Pods of workloads


def _with_pods(objects: list[Object], renewed: set[Identity]) -> Iterator[Object]:
    """All objects, and the pods of workloads that have none, or none of their new template."""
    between = {identity_of(each): each for each in objects if isinstance(each, ReplicaSet | Job)}
    staffed: set[Identity] = set()
    for each in objects:
        makers = set(_makers(each, between))
        if makers & renewed:
            continue
        if isinstance(each, Pod):
            staffed |= makers
        yield each
    nodes = [each for each in objects if isinstance(each, Node)]
    for each in objects:
        if isinstance(each, PodMaker) and identity_of(each) not in staffed and not _owner(each):
            yield from _pods_of(each, nodes)


def _makers(obj: Object, between: Mapping[Identity, Object]) -> Iterator[Identity]:
    """What made this object, and what made that."""
    owner = _owner(obj)
    if owner is not None:
        yield owner
        if owner in between:
            yield from _makers(between[owner], between)


def _owner(obj: Object) -> Identity | None:
    for reference in obj.metadata.ownerReferences:
        if reference.controller:
            return (reference.kind, ObjectKey(obj.metadata.namespace, reference.name))
    return None


def _selectors(objects: Iterable[Object]) -> Iterator[tuple[str, LabelSelector]]:
    for each in objects:
        namespace = each.metadata.namespace or DEFAULT_NAMESPACE
        if isinstance(each, Service) and each.spec.selector:
            yield namespace, LabelSelector(matchLabels=each.spec.selector)
        elif isinstance(each, Workload) and each.spec.selector is not None:
            yield namespace, each.spec.selector


def _pods_of(maker: PodMaker, nodes: Sequence[Node]) -> Iterator[Object]:
    """As the lab's controller makes them; a DaemonSet without nodes has one pod."""
    match maker:
        case Deployment():
            world = Workloads(deployments=[maker], max_created=_MOST_PODS)
        case ReplicaSet():
            world = Workloads(replica_sets=[maker], max_created=_MOST_PODS)
        case StatefulSet():
            world = Workloads(stateful_sets=[maker], max_created=_MOST_PODS)
        case DaemonSet():
            anywhere = Node(metadata=replace(maker.metadata, labels=dict(maker.spec.template.spec.nodeSelector)))
            world = Workloads(daemon_sets=[maker], nodes=nodes or [anywhere])
        case Job():
            world = Workloads(jobs=[maker], max_created=_MOST_PODS)
        case CronJob():
            world = Workloads(cron_jobs=[maker], max_created=_MOST_PODS)
    return (write.object for write in workloads.plan(world) if isinstance(write, Create))


# Addresses


def _blocks(objects: Iterable[Object]) -> Iterator[Block]:
    """That policies name."""
    for obj in objects:
        kind = POLICY_KINDS.of(type(obj))
        for rule in kind.compile(obj).all_rules if kind is not None else ():
            yield from (peer for peer in rule.peers or () if isinstance(peer, Block))


def _taken(objects: Iterable[Object]) -> Iterator[IPAddress]:
    """By pods and nodes."""
    for obj in objects:
        if isinstance(obj, Pod):
            yield from obj.ips
        elif isinstance(obj, Node):
            yield from map(ip_address, obj.status.internal_ips)


def _with_addresses(
    objects: Sequence[Object], networks: PodNetworks
) -> tuple[tuple[Object, ...], frozenset[ObjectKey]]:
    """Every pod has an address: one of its node's, or one that is free; and the pods for which it is made up."""
    nodes = {each.metadata.name: each for each in objects if isinstance(each, Node)}
    made = MadeUpAddresses(networks, set(_blocks(objects)), _taken(objects))
    found: list[Object] = []
    made_up: set[ObjectKey] = set()
    for obj in objects:
        if isinstance(obj, Pod) and not obj.ips:
            node = nodes.get(obj.spec.nodeName or "") if obj.spec.hostNetwork else None
            ips = node.status.internal_ips if node else ()
            ips = ips or (() if obj.spec.hostNetwork else made.of(obj))
            status = replace(
                obj.status,
                podIPs=tuple(PodIP(ip=ip) for ip in ips),
                phase=obj.status.phase or "Running",
                conditions=obj.status.conditions or (Condition(type="Ready", status="True"),),
            )
            found.append(replace(obj, status=status))
            if node is None or not ips:  # a node's addresses are known
                made_up.add(obj.key)
        else:
            found.append(obj)
    return tuple(found), frozenset(made_up)
