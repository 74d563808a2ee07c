"""Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeAlias

import msgspec

from percale.model.condition import Condition
from percale.model.meta import Integer, Object, ObjectMeta, Part
from percale.model.pod import PodTemplateSpec
from percale.model.selector import LabelSelector

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class DeploymentSpec(Part, frozen=True, kw_only=True):
    """`replicas` None is 1."""

    selector: LabelSelector
    template: PodTemplateSpec
    replicas: Count | None = None


class ReplicasStatus(Part, frozen=True, kw_only=True):
    """Counts of pods by state."""

    replicas: Integer = 0
    readyReplicas: Integer = 0
    availableReplicas: Integer = 0
    updatedReplicas: Integer = 0
    observedGeneration: Integer | None = None
    conditions: tuple[Condition, ...] = ()


class Deployment(Object, frozen=True, kw_only=True):
    """Creates a ReplicaSet for each revision of its template."""

    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "Deployment"
    PLURAL: ClassVar[str] = "deployments"

    spec: DeploymentSpec
    status: ReplicasStatus = ReplicasStatus()


class ReplicaSetSpec(Part, frozen=True, kw_only=True):
    """`replicas` None is 1."""

    selector: LabelSelector
    template: PodTemplateSpec
    replicas: Count | None = None


class ReplicaSet(Object, frozen=True, kw_only=True):
    """`replicas` pods of one template."""

    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "ReplicaSet"
    PLURAL: ClassVar[str] = "replicasets"

    spec: ReplicaSetSpec
    status: ReplicasStatus = ReplicasStatus()


class StatefulSetSpec(Part, frozen=True, kw_only=True):
    """`serviceName` is the headless Service for the pods' DNS names."""

    selector: LabelSelector
    template: PodTemplateSpec
    serviceName: str | None = None
    replicas: Count | None = None


class StatefulSet(Object, frozen=True, kw_only=True):
    """Pods with stable names."""

    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "StatefulSet"
    PLURAL: ClassVar[str] = "statefulsets"

    spec: StatefulSetSpec
    status: ReplicasStatus = ReplicasStatus()


class DaemonSetSpec(Part, frozen=True, kw_only=True):
    """The template's nodeSelector selects the nodes."""

    selector: LabelSelector
    template: PodTemplateSpec


class DaemonSetStatus(Part, frozen=True, kw_only=True):
    """Counts of nodes by the state of their pod."""

    desiredNumberScheduled: Integer = 0
    currentNumberScheduled: Integer = 0
    numberReady: Integer = 0
    numberMisscheduled: Integer = 0
    numberAvailable: Integer = 0
    updatedNumberScheduled: Integer = 0


class DaemonSet(Object, frozen=True, kw_only=True):
    """One pod on each node."""

    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "DaemonSet"
    PLURAL: ClassVar[str] = "daemonsets"

    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()


class JobSpec(Part, frozen=True, kw_only=True):
    """`parallelism` None is 1."""

    template: PodTemplateSpec
    parallelism: Count | None = None
    completions: Count | None = None
    selector: LabelSelector | None = None


class JobStatus(Part, frozen=True, kw_only=True):
    """Counts of pods by state."""

    active: Integer = 0
    ready: Integer = 0
    succeeded: Integer = 0
    failed: Integer = 0
    startTime: str | None = None
    completionTime: str | None = None
    conditions: tuple[Condition, ...] = ()


class Job(Object, frozen=True, kw_only=True):
    """Pods that run to completion."""

    API_VERSION: ClassVar[str] = "batch/v1"
    KIND: ClassVar[str] = "Job"
    PLURAL: ClassVar[str] = "jobs"

    spec: JobSpec
    status: JobStatus = JobStatus()


class JobTemplateSpec(Part, frozen=True, kw_only=True):
    """What a CronJob's Jobs are."""

    spec: JobSpec
    metadata: ObjectMeta = ObjectMeta()


class CronJobSpec(Part, frozen=True, kw_only=True):
    """`schedule` as in crontab(5)."""

    schedule: str
    jobTemplate: JobTemplateSpec


class CronJob(Object, frozen=True, kw_only=True):
    """A Job now and then."""

    API_VERSION: ClassVar[str] = "batch/v1"
    KIND: ClassVar[str] = "CronJob"
    PLURAL: ClassVar[str] = "cronjobs"

    spec: CronJobSpec


Workload: TypeAlias = Deployment | ReplicaSet | StatefulSet | DaemonSet | Job
"""All have `spec.template`."""
PodMaker: TypeAlias = Workload | CronJob

KINDS_BY_ALIAS = {
    word: kind
    for kind, short in (
        ("Deployment", "deploy"),
        ("ReplicaSet", "rs"),
        ("StatefulSet", "sts"),
        ("DaemonSet", "ds"),
        ("Job", "job"),
        ("CronJob", "cj"),
    )
    for word in (short, kind.lower())
}
"""Kinds by lower-case name and kubectl's short name: `deploy/web`, `deployment/web`."""


def desired_replicas(owner: Deployment | ReplicaSet | StatefulSet) -> int:
    """One by default."""
    return 1 if owner.spec.replicas is None else owner.spec.replicas
