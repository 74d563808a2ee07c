"""What Kubernetes' controller manager would do: from workloads and pods as they are to pods as they should be. Pure.

    Deployment ─▶ ReplicaSet ─▶ pods        StatefulSet ─▶ web-0 web-1 …
    Job ─▶ pods                             DaemonSet ─▶ one pod per matching node

`plan` is called by `planner` whenever something changed; from the same world it makes the same writes, and none when all is
as it should be. A new template replaces pods: a Deployment's old ones stay until the new ones are Ready, others go first.
A pod that terminates counts no more, but has its name until it is gone.
A Job's pods run and do not complete: in a lab they are there to be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.controllers.pod_names import fresh_names, template_hash
from percale.controllers.scheduler import selects
from percale.model.meta import Object, ObjectKey, ObjectMeta, OwnerReference
from percale.model.node import Node
from percale.model.pod import Pod, PodSpec, PodTemplateSpec
from percale.model.selector import LabelSelector
from percale.model.workloads import (
    DaemonSet,
    Deployment,
    Job,
    ReplicaSet,
    ReplicaSetSpec,
    StatefulSet,
)

Workload: TypeAlias = Deployment | ReplicaSet | StatefulSet | DaemonSet | Job

TEMPLATE_LABEL = "pod-template-hash"
REVISION_LABEL = "controller-revision-hash"
POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
"""By which a Service selects one pod of a StatefulSet."""
_MOST_AT_ONCE = 500
"""New pods of one owner in a pass, as of Kubernetes' controllers: who asks for millions keeps nobody else waiting."""


class Create(Struct, frozen=True):
    """This object is missing."""

    object: Object


class Change(Struct, frozen=True):
    """This object has another state now."""

    object: Object


class Delete(Struct, frozen=True):
    """This object has no reason to be there, or not any more."""

    object: Object


Write: TypeAlias = Create | Change | Delete


class Workloads(Struct, frozen=True):
    """The part of the cluster that counts here. `names` are pod names that were in use once: none is used again.

    `most` is how many new pods an owner gets in a pass.
    """

    deployments: Sequence[Deployment] = ()
    replica_sets: Sequence[ReplicaSet] = ()
    stateful_sets: Sequence[StatefulSet] = ()
    daemon_sets: Sequence[DaemonSet] = ()
    jobs: Sequence[Job] = ()
    pods: Sequence[Pod] = ()
    nodes: Sequence[Node] = ()
    names: frozenset[ObjectKey] = frozenset()
    most: int = _MOST_AT_ONCE


def plan(world: Workloads) -> list[Write]:
    """The writes that bring the pods to what the workloads say."""
    planning = _Planning(world)
    sets = [*planning.replica_sets()]
    for owner in sets:
        planning.replicas(owner, owner.spec.template, _replicas(owner.spec.replicas), TEMPLATE_LABEL)
    for stateful in world.stateful_sets:
        planning.ordinals(stateful)
    for daemon in world.daemon_sets:
        planning.daemons(daemon)
    for job in world.jobs:
        wanted = min(_replicas(job.spec.parallelism), _replicas(job.spec.completions, unlimited=True))
        planning.replicas(job, job.spec.template, wanted, None)
    planning.orphans([*sets, *world.stateful_sets, *world.daemon_sets, *world.jobs])
    return planning.writes


@dataclass(slots=True)
class _Planning:
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
        """The pods that this object made."""
        return self._owned.get(_reference(owner), [])

    def replica_sets(self) -> Iterator[ReplicaSet]:
        """The replica sets as they will be: people's own, and those of deployments."""
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
        """One set of the current template; the others shrink to nothing once it is Ready."""
        wanted = _replicas(deployment.spec.replicas)
        name = f"{deployment.metadata.name}-{template_hash(deployment.spec.template)}"
        current = next((each for each in sets if each.metadata.name == name), None)
        old = [each for each in sets if each is not current]
        if current is None:
            current = _replica_set(deployment, name, wanted)
            self.writes.append(Create(current))
        elif current.spec.replicas != wanted:
            current = replace(current, spec=replace(current.spec, replicas=wanted))
            self.writes.append(Change(current))
        yield current
        ready = sum(pod.ready for pod in self.pods_of(current))
        for each in old:
            if each.spec.replicas != 0 and ready >= wanted:
                shrunk = replace(each, spec=replace(each.spec, replicas=0))
                self.writes.append(Change(shrunk))
                yield shrunk
            else:
                yield each

    def replicas(self, owner: ReplicaSet | Job, template: PodTemplateSpec, wanted: int, label: str | None) -> None:
        """So many pods with any names."""
        pods = self.pods_of(owner)
        namespace, name = owner.key
        labels = {TEMPLATE_LABEL: owner.metadata.labels[label]} if label and label in owner.metadata.labels else {}
        taken = {key.name for key in self._taken if key.namespace == namespace}
        for fresh in islice(fresh_names(name, taken), min(max(0, wanted - len(pods)), self.world.most)):
            self._create(_pod(owner, template, fresh, labels))
        surplus = max(0, len(pods) - wanted)
        self.writes += [Delete(pod) for pod in sorted(pods, key=_first_to_go)[:surplus]]

    def ordinals(self, owner: StatefulSet) -> None:
        """NAME-0 to NAME-(n-1), each of the current template."""
        revision = template_hash(owner.spec.template)
        prefix, replicas = f"{owner.metadata.name}-", _replicas(owner.spec.replicas)
        have = {pod.metadata.name: pod for pod in self.pods_of(owner)}
        for name, pod in have.items():
            if not _is_ordinal(name, prefix, replicas) or pod.metadata.labels.get(REVISION_LABEL) != revision:
                self.writes.append(Delete(pod))
        leaving = {pod.metadata.name for pod in self.world.pods if pod.terminating and _is_at_home(pod, owner)}
        names = (f"{prefix}{number}" for number in range(replicas))
        missing = (name for name in names if name not in have and name not in leaving)
        for name in islice(missing, self.world.most):
            labels = {REVISION_LABEL: revision, POD_NAME_LABEL: name}
            pod = _pod(owner, owner.spec.template, name, labels)
            named = replace(pod.spec, hostname=name, subdomain=owner.spec.serviceName)
            self._create(replace(pod, spec=named))

    def daemons(self, owner: DaemonSet) -> None:
        """One on each node that its nodeSelector fits."""
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
        names = fresh_names(owner.metadata.name, taken)
        for node in sorted(fitting - served):
            self._create(_pod(owner, template, next(names), {REVISION_LABEL: revision}, node))

    def orphans(self, owners: Iterable[Workload]) -> None:
        """Pods whose owner is gone, and pods on nodes that are gone."""
        known = {_reference(owner) for owner in owners}
        nodes = {node.metadata.name for node in self.world.nodes}
        doomed = {
            write.object.key for write in self.writes if isinstance(write, Delete) and isinstance(write.object, Pod)
        }
        for pod in self.world.pods:
            owner = _owner(pod)
            lived = owner is not None or pod.status.hostIP is not None
            homeless = lived and bool(pod.spec.nodeName) and pod.spec.nodeName not in nodes
            unowned = owner is not None and owner not in known and not pod.terminating
            if pod.key not in doomed and (unowned or homeless):
                self.writes.append(Delete(pod))

    def _create(self, pod: Pod) -> None:
        self._taken.add(pod.key)
        self.writes.append(Create(pod))


def _is_ordinal(name: str, prefix: str, replicas: int) -> bool:
    """PREFIX0 to PREFIX(n-1)."""
    digits = name.removeprefix(prefix)
    return len(digits) < 11 and digits.isdecimal() and int(digits) < replicas and name == f"{prefix}{int(digits)}"


def _is_at_home(pod: Pod, owner: StatefulSet) -> bool:
    return pod.metadata.namespace == owner.metadata.namespace


def _first_to_go(pod: Pod) -> tuple[bool, str]:
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


def _as_owner(owner: Workload) -> OwnerReference:
    return OwnerReference(
        kind=owner.KIND,
        name=owner.metadata.name,
        uid=owner.metadata.uid or "",
        apiVersion=owner.API_VERSION,
        controller=True,
    )


def _reference(owner: Workload) -> tuple[str, ObjectKey]:
    return (owner.KIND, owner.key)


def _owner(obj: Pod | ReplicaSet) -> tuple[str, ObjectKey] | None:
    """What made this object, unless a person did."""
    for reference in obj.metadata.ownerReferences:
        if reference.controller:
            return (reference.kind, ObjectKey(obj.metadata.namespace, reference.name))
    return None
