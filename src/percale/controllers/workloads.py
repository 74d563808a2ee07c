"""The workload controllers: creates and deletes pods until they match Deployments, StatefulSets, DaemonSets and Jobs. Pure.

    Deployment ─▶ ReplicaSet ─▶ pods        StatefulSet ─▶ web-0 web-1 …
    CronJob ─▶ Job ─▶ pods                  DaemonSet ─▶ one pod per matching node

`plan` is called by `control_loop` after each change. It is deterministic, and has no writes when nothing is to be changed. A new
template replaces pods: a Deployment's old pods stay until the new ones are Ready, other workloads' are deleted first.
A terminating pod does not count, but keeps its name until it is deleted. A Job's pods do not complete: a lab needs them running.
A CronJob has one Job of its template, whatever its schedule says.
Generated names (`web-7c5ddbdf54-2xkqn`) come from hashes only, so that a lab has the same names each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count, islice
from typing import TypeAlias

from msgspec import Struct, json
from msgspec.structs import replace

from percale.controllers.scheduler import selects
from percale.model.meta import Object, ObjectKey, ObjectMeta, OwnerReference
from percale.model.node import Node
from percale.model.pod import Pod, PodSpec, PodTemplateSpec
from percale.model.selector import LabelSelector
from percale.model.workloads import (
    CronJob,
    DaemonSet,
    Deployment,
    Job,
    PodMaker,
    ReplicaSet,
    ReplicaSetSpec,
    StatefulSet,
    Workload,
)

TEMPLATE_LABEL = "pod-template-hash"
REVISION_LABEL = "controller-revision-hash"
POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
"""Lets a Service select one pod of a StatefulSet."""
_MAX_CREATED = 500
"""New pods of one owner in a pass, as in Kubernetes' controllers: millions of replicas must not starve others."""

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' safe alphabet: no vowels, and no characters that look alike."""
_MAX_NAME = 63


class Create(Struct, frozen=True):
    object: Object


class Change(Struct, frozen=True):
    """Update this object."""

    object: Object


class Delete(Struct, frozen=True):
    object: Object


Write: TypeAlias = Create | Change | Delete


class Workloads(Struct, frozen=True):
    """The objects that these controllers read. `names` are all pod names ever used: none is reused.

    `max_created` is the number of new pods of an owner in a pass.
    """

    deployments: Sequence[Deployment] = ()
    replica_sets: Sequence[ReplicaSet] = ()
    stateful_sets: Sequence[StatefulSet] = ()
    daemon_sets: Sequence[DaemonSet] = ()
    jobs: Sequence[Job] = ()
    cron_jobs: Sequence[CronJob] = ()
    pods: Sequence[Pod] = ()
    nodes: Sequence[Node] = ()
    names: frozenset[ObjectKey] = frozenset()
    max_created: int = _MAX_CREATED


def plan(world: Workloads) -> list[Write]:
    """The writes that bring the pods closer to what the workloads want."""
    planner = _Planner(world)
    sets = [*planner.replica_sets()]
    for owner in sets:
        planner.replicas(owner, owner.spec.template, _replicas(owner.spec.replicas), TEMPLATE_LABEL)
    for stateful in world.stateful_sets:
        planner.ordinals(stateful)
    for daemon in world.daemon_sets:
        planner.daemons(daemon)
    jobs = [*planner.jobs()]
    for job in jobs:
        desired = min(_replicas(job.spec.parallelism), _replicas(job.spec.completions, unlimited=True))
        planner.replicas(job, job.spec.template, desired, None)
    planner.orphans([*sets, *world.stateful_sets, *world.daemon_sets, *jobs])
    return planner.writes


@dataclass(slots=True)
class _Planner:
    """Collects the writes of one pass."""

    world: Workloads
    writes: list[Write] = field(default_factory=list)
    _owned: Mapping[tuple[str, ObjectKey], list[Pod]] = field(init=False)
    _taken: set[ObjectKey] = field(init=False)

    def __post_init__(self) -> None:
        owned: dict[tuple[str, ObjectKey], list[Pod]] = {}
        for pod in self.world.pods:
            owner = _owner(pod)
            if owner is not None and not pod.terminating:
                owned.setdefault(owner, []).append(pod)
        self._owned = owned
        self._taken = {*self.world.names, *(pod.key for pod in self.world.pods)}

    def pods_of(self, owner: Workload) -> list[Pod]:
        """The pods of this owner, without terminating ones."""
        return self._owned.get(_reference(owner), [])

    def replica_sets(self) -> Iterator[ReplicaSet]:
        """The ReplicaSets after this pass: unowned ones, and those of Deployments."""
        made: dict[tuple[str, ObjectKey], list[ReplicaSet]] = {}
        deployments = {_reference(deployment) for deployment in self.world.deployments}
        for each in self.world.replica_sets:
            owner = _owner(each)
            if owner is None:
                yield each
            elif owner in deployments:
                made.setdefault(owner, []).append(each)
            else:
                self.writes.append(Delete(each))
        for deployment in self.world.deployments:
            yield from self._rollout(deployment, made.get(_reference(deployment), []))

    def _rollout(self, deployment: Deployment, sets: Sequence[ReplicaSet]) -> Iterator[ReplicaSet]:
        """One ReplicaSet of the current template; the others are scaled to 0 once it is Ready."""
        desired = _replicas(deployment.spec.replicas)
        name = f"{deployment.metadata.name}-{template_hash(deployment.spec.template)}"
        current = next((each for each in sets if each.metadata.name == name), None)
        old = [each for each in sets if each is not current]
        if current is None:
            current = _replica_set(deployment, name, desired)
            self.writes.append(Create(current))
        elif current.spec.replicas != desired:
            current = replace(current, spec=replace(current.spec, replicas=desired))
            self.writes.append(Change(current))
        yield current
        ready = sum(pod.ready for pod in self.pods_of(current))
        for each in old:
            if each.spec.replicas != 0 and ready >= desired:
                shrunk = replace(each, spec=replace(each.spec, replicas=0))
                self.writes.append(Change(shrunk))
                yield shrunk
            else:
                yield each

    def jobs(self) -> Iterator[Job]:
        """The Jobs after this pass: those of nobody, and one of each CronJob's current template."""
        wanted = {job.key: job for job in map(_job, self.world.cron_jobs)}
        for each in self.world.jobs:
            owner = _owner(each)
            if owner is not None and owner[0] == CronJob.KIND and wanted.pop(each.key, None) is None:
                self.writes.append(Delete(each))
            else:
                yield each
        for job in wanted.values():
            self.writes.append(Create(job))
            yield job

    def replicas(self, owner: ReplicaSet | Job, template: PodTemplateSpec, desired: int, label: str | None) -> None:
        """So many pods with generated names."""
        pods = self.pods_of(owner)
        namespace, name = owner.key
        labels = {TEMPLATE_LABEL: owner.metadata.labels[label]} if label and label in owner.metadata.labels else {}
        taken = {key.name for key in self._taken if key.namespace == namespace}
        for generated in islice(unused_names(name, taken), min(max(0, desired - len(pods)), self.world.max_created)):
            self._create(_pod(owner, template, generated, labels))
        surplus = max(0, len(pods) - desired)
        self.writes += [Delete(pod) for pod in sorted(pods, key=_deletion_order)[:surplus]]

    def ordinals(self, owner: StatefulSet) -> None:
        """NAME-0 to NAME-(n-1), each of the current template."""
        revision = template_hash(owner.spec.template)
        prefix, replicas = f"{owner.metadata.name}-", _replicas(owner.spec.replicas)
        existing = {pod.metadata.name: pod for pod in self.pods_of(owner)}
        for name, pod in existing.items():
            if not _is_ordinal(name, prefix, replicas) or pod.metadata.labels.get(REVISION_LABEL) != revision:
                self.writes.append(Delete(pod))
        leaving = {pod.metadata.name for pod in self.world.pods if pod.terminating and _is_in_namespace_of(pod, owner)}
        names = (f"{prefix}{number}" for number in range(replicas))
        missing = (name for name in names if name not in existing and name not in leaving)
        for name in islice(missing, self.world.max_created):
            labels = {REVISION_LABEL: revision, POD_NAME_LABEL: name}
            pod = _pod(owner, owner.spec.template, name, labels)
            named = replace(pod.spec, hostname=name, subdomain=owner.spec.serviceName)
            self._create(replace(pod, spec=named))

    def daemons(self, owner: DaemonSet) -> None:
        """One on each node that matches its nodeSelector."""
        template = owner.spec.template
        revision = template_hash(template)
        fitting = {node.metadata.name for node in self.world.nodes if selects(template.spec.nodeSelector, node)}
        served: set[str] = set()
        for pod in self.pods_of(owner):
            node = pod.spec.nodeName or ""
            right = node in fitting and pod.metadata.labels.get(REVISION_LABEL) == revision
            if right and node not in served:
                served.add(node)
            else:
                self.writes.append(Delete(pod))
        taken = {key.name for key in self._taken if key.namespace == owner.metadata.namespace}
        names = unused_names(owner.metadata.name, taken)
        for node in sorted(fitting - served):
            self._create(_pod(owner, template, next(names), {REVISION_LABEL: revision}, node))

    def orphans(self, owners: Iterable[Workload]) -> None:
        """Delete pods whose owner or node does not exist any more."""
        known = {_reference(owner) for owner in owners}
        nodes = {node.metadata.name for node in self.world.nodes}
        deleted = {
            write.object.key for write in self.writes if isinstance(write, Delete) and isinstance(write.object, Pod)
        }
        for pod in self.world.pods:
            owner = _owner(pod)
            has_run = owner is not None or pod.status.hostIP is not None
            lost_node = has_run and bool(pod.spec.nodeName) and pod.spec.nodeName not in nodes
            unowned = owner is not None and owner not in known and not pod.terminating
            if pod.key not in deleted and (unowned or lost_node):
                self.writes.append(Delete(pod))

    def _create(self, pod: Pod) -> None:
        self._taken.add(pod.key)
        self.writes.append(Create(pod))


def _is_ordinal(name: str, prefix: str, replicas: int) -> bool:
    """PREFIX0 to PREFIX(n-1)."""
    digits = name.removeprefix(prefix)
    return len(digits) < 11 and digits.isdecimal() and int(digits) < replicas and name == f"{prefix}{int(digits)}"


def _is_in_namespace_of(pod: Pod, owner: StatefulSet) -> bool:
    return pod.metadata.namespace == owner.metadata.namespace


def _deletion_order(pod: Pod) -> tuple[bool, str]:
    return (pod.ready, pod.metadata.name)


def _replicas(number: int | None, *, unlimited: bool = False) -> int:
    if number is None:
        return 1_000_000 if unlimited else 1
    return number


def _replica_set(deployment: Deployment, name: str, replicas: int) -> ReplicaSet:
    label = {TEMPLATE_LABEL: name.rpartition("-")[2]}
    template = deployment.spec.template
    labels = {**template.metadata.labels, **label}
    return ReplicaSet(
        metadata=ObjectMeta(
            name=name,
            namespace=deployment.metadata.namespace,
            labels=labels,
            ownerReferences=(_as_owner(deployment),),
        ),
        spec=ReplicaSetSpec(
            replicas=replicas,
            selector=LabelSelector(matchLabels=labels),
            template=replace(template, metadata=replace(template.metadata, labels=labels)),
        ),
    )


def _job(maker: CronJob) -> Job:
    template = maker.spec.jobTemplate
    return Job(
        metadata=replace(
            template.metadata,
            name=f"{maker.metadata.name}-{template_hash(template)}",
            namespace=maker.metadata.namespace,
            ownerReferences=(_as_owner(maker),),
        ),
        spec=template.spec,
    )


def _pod(owner: Workload, template: PodTemplateSpec, name: str, labels: dict[str, str], node: str | None = None) -> Pod:
    spec: PodSpec = template.spec if node is None else replace(template.spec, nodeName=node)
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace=owner.metadata.namespace,
            labels={**template.metadata.labels, **labels},
            annotations=template.metadata.annotations,
            ownerReferences=(_as_owner(owner),),
        ),
        spec=spec,
    )


def _as_owner(owner: PodMaker) -> OwnerReference:
    return OwnerReference(
        kind=owner.KIND,
        name=owner.metadata.name,
        uid=owner.metadata.uid or "",
        apiVersion=owner.API_VERSION,
        controller=True,
    )


def _reference(owner: Workload) -> tuple[str, ObjectKey]:
    return (owner.KIND, owner.key)


def _owner(obj: Pod | ReplicaSet | Job) -> tuple[str, ObjectKey] | None:
    """The controller of this object."""
    for reference in obj.metadata.ownerReferences:
        if reference.controller:
            return (reference.kind, ObjectKey(obj.metadata.namespace, reference.name))
    return None


def template_hash(template: Struct) -> str:
    """Ten characters for the content of a template."""
    return _letters(json.encode(template, order="deterministic"), 10)


def unused_names(owner: str, taken: Collection[str]) -> Iterator[str]:
    """`OWNER-xxxxx`, one after the other, without those that are or were in use."""
    prefix = owner[: _MAX_NAME - 6]
    for number in count():
        name = f"{prefix}-{_letters(f'{owner}#{number}'.encode(), 5)}"
        if name not in taken:
            yield name


def _letters(content: bytes, length: int) -> str:
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in sha256(content).digest()[:length])
