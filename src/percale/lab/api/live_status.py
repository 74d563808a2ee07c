"""The status that Kubernetes' controllers and kubelets write, computed when somebody asks: the lab's store has none of it.

Pure; called by `read_verbs`. A pod's own status is the store's, except for its containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from percale.controllers.scheduler import selects
from percale.controllers.workloads import REVISION_LABEL, TEMPLATE_LABEL, template_hash
from percale.model.condition import Condition
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import ContainerStatus, Pod
from percale.model.workloads import (
    CronJob,
    CronJobSpec,
    DaemonSet,
    DaemonSetStatus,
    Deployment,
    Job,
    JobStatus,
    JobTemplateSpec,
    PodMaker,
    ReplicaSet,
    ReplicasStatus,
    StatefulSet,
    Workload,
    desired_replicas,
)

T = TypeVar("T", bound=Object)

_MADE_BY = {"ReplicaSet": "Deployment", "Job": "CronJob"}
"""What may have made a pod's owner, whose name begins with its own."""


class LiveState(NamedTuple):
    """What the status of other objects depends on."""

    pods: Mapping[tuple[str, ObjectKey], Sequence[Pod]]
    """Without terminating ones, by owner: a Deployment's are those of its ReplicaSets, a CronJob's those of its Jobs."""
    nodes: Sequence[Node]
    ready_nodes: frozenset[str]
    """Those whose agent is ready."""

    def pods_of(self, owner: Workload) -> Sequence[Pod]:
        return self.pods.get((owner.KIND, owner.key), ())


def pods_by_owner(pods: Iterable[Pod]) -> dict[tuple[str, ObjectKey], list[Pod]]:
    """For `LiveState`."""
    owned: dict[tuple[str, ObjectKey], list[Pod]] = {}
    for pod in pods:
        if pod.terminating:
            continue
        for owner in pod.metadata.ownerReferences:
            owned.setdefault((owner.kind, ObjectKey(pod.metadata.namespace, owner.name)), []).append(pod)
            if owner.kind in _MADE_BY:
                above = ObjectKey(pod.metadata.namespace, owner.name.rpartition("-")[0])
                owned.setdefault((_MADE_BY[owner.kind], above), []).append(pod)
    return owned


def with_status(obj: T, state: LiveState) -> T:
    """The object as an API server would answer."""
    status: Struct
    match obj:
        case Pod():
            if obj.status.containerStatuses or not obj.spec.nodeName:
                return obj
            status = replace(obj.status, containerStatuses=_containers(obj))
        case Node():
            kept = [each for each in obj.status.conditions if each.type != "Ready"]
            status = replace(obj.status, conditions=(*kept, _node_ready(obj, state)))
        case Deployment():
            status = _replicas(obj, state, TEMPLATE_LABEL)
            status = replace(status, conditions=_rollout_conditions(obj, status))
        case StatefulSet():
            status = _replicas(obj, state, REVISION_LABEL)
        case ReplicaSet():
            status = _replicas(obj, state, None)
        case DaemonSet():
            status = _daemons(obj, state)
        case Job():
            pods = state.pods_of(obj)
            status = JobStatus(active=len(pods), ready=sum(pod.ready for pod in pods))
        case _:
            return obj
    if isinstance(obj, Deployment | ReplicaSet | StatefulSet):
        return replace(obj, spec=replace(obj.spec, replicas=desired_replicas(obj)), status=status)
    return replace(obj, status=status)


def desired_pods(owner: PodMaker, nodes: Sequence[Node]) -> int:
    """How many pods its controller creates."""
    match owner:
        case DaemonSet():
            return sum(selects(owner.spec.template.spec.nodeSelector, node) for node in nodes)
        case Job(spec=job) | CronJob(spec=CronJobSpec(jobTemplate=JobTemplateSpec(spec=job))):
            parallel = 1 if job.parallelism is None else job.parallelism
            return parallel if job.completions is None else min(parallel, job.completions)
        case _:
            return desired_replicas(owner)


def _containers(pod: Pod) -> tuple[ContainerStatus, ...]:
    return tuple(
        ContainerStatus(name=each.name, image=each.image or "", ready=pod.ready) for each in pod.spec.containers
    )


def _node_ready(node: Node, state: LiveState) -> Condition:
    if node.metadata.name in state.ready_nodes:
        return Condition(type="Ready", status="True", reason="KubeletReady", message="the node's agent is ready")
    return Condition(type="Ready", status="False", reason="KubeletNotReady", message="the node's agent is not ready")


def _replicas(owner: Deployment | ReplicaSet | StatefulSet, state: LiveState, revision: str | None) -> ReplicasStatus:
    """`revision` is the label that says of which template a pod is; None: all pods are of the same."""
    pods = state.pods_of(owner)
    ready = sum(pod.ready for pod in pods)
    wanted = template_hash(owner.spec.template) if revision is not None else ""
    updated = sum(pod.metadata.labels.get(revision) == wanted for pod in pods) if revision is not None else 0
    return ReplicasStatus(replicas=len(pods), readyReplicas=ready, availableReplicas=ready, updatedReplicas=updated)


def _rollout_conditions(deployment: Deployment, status: ReplicasStatus) -> tuple[Condition, ...]:
    desired = desired_replicas(deployment)
    available = status.availableReplicas >= desired - desired // 4  # maxUnavailable: a quarter, rounded down
    complete = status.updatedReplicas >= desired and status.replicas == status.availableReplicas >= desired
    return (
        Condition(
            type="Available",
            status="True" if available else "False",
            reason="MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
        ),
        Condition(
            type="Progressing",
            status="True",
            reason="NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
        ),
    )


def _daemons(owner: DaemonSet, state: LiveState) -> DaemonSetStatus:
    template, pods = owner.spec.template, state.pods_of(owner)
    revision = template_hash(template)
    ready = sum(pod.ready for pod in pods)
    return DaemonSetStatus(
        desiredNumberScheduled=desired_pods(owner, state.nodes),
        currentNumberScheduled=len(pods),
        numberReady=ready,
        numberAvailable=ready,
        updatedNumberScheduled=sum(pod.metadata.labels.get(REVISION_LABEL) == revision for pod in pods),
    )
