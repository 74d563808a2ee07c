"""One pass of all controllers: from the cluster's current state to the next writes. Pure; called by `lab/cluster.py`.

workloads ─▶ pods ─┬─▶ scheduler ─▶ pods with nodes
services ──────────┘ └▶ EndpointSlices, cluster IPs, load balancer addresses
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from percale.controllers import services as service_controller
from percale.controllers import workloads
from percale.controllers.scheduler import Scheduler, Unschedulable
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.services import Plan
from percale.controllers.workloads import Change, Create, Delete, Workloads, Write
from percale.model.condition import Condition
from percale.model.meta import ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.workloads import CronJob, DaemonSet, Deployment, Job, ReplicaSet, StatefulSet
from percale.store.object_cache import ObjectCache


def plan(cache: ObjectCache, names: Iterable[ObjectKey], networks: ServiceNetworks) -> Plan:
    """The next writes, and problems of Services. `names` are all pod names ever used: none is reused."""
    pods = cache.all(Pod)
    nodes = cache.all(Node)
    writes = workloads.plan(
        Workloads(
            deployments=cache.all(Deployment),
            replica_sets=cache.all(ReplicaSet),
            stateful_sets=cache.all(StatefulSet),
            daemon_sets=cache.all(DaemonSet),
            jobs=cache.all(Job),
            cron_jobs=cache.all(CronJob),
            pods=pods,
            nodes=nodes,
            names=frozenset(names),
        )
    )
    services = service_controller.plan(cache, networks)
    writes += services.writes
    deleted = {write.object.key for write in writes if isinstance(write, Delete) and isinstance(write.object, Pod)}
    staying = [pod for pod in pods if pod.key not in deleted]
    scheduler = Scheduler(nodes)
    new = [write.object for write in writes if isinstance(write, Create) and isinstance(write.object, Pod)]
    scheduler.count([*staying, *new])
    known = {node.metadata.name for node in nodes}
    scheduled = [_with_node(write, scheduler) for write in writes]
    moved = [Change(changed) for pod in staying if (changed := _scheduled(pod, scheduler, known)) is not pod]
    return Plan([*scheduled, *moved], services.problems)


def _with_node(write: Write, scheduler: Scheduler) -> Write:
    """A new pod is created with its node."""
    if not isinstance(write, Create) or not isinstance(write.object, Pod):
        return write
    return Create(_scheduled(write.object, scheduler, None))


def _scheduled(pod: Pod, scheduler: Scheduler, known: Iterable[str] | None) -> Pod:
    """The pod with its node, or with the reason why it has none; the same object if nothing changes."""
    if pod.spec.nodeName:
        if known is None or pod.spec.nodeName in known:
            return pod
        return _pending(pod, f"there is no node {pod.spec.nodeName}")
    node = scheduler.place(pod)
    if isinstance(node, Unschedulable):
        return _pending(pod, node.reason)
    return replace(pod, spec=replace(pod.spec, nodeName=node), status=replace(pod.status, conditions=()))


def _pending(pod: Pod, reason: str) -> Pod:
    condition = Condition(type="PodScheduled", status="False", reason="Unschedulable", message=reason)
    if pod.status.conditions == (condition,):
        return pod
    return replace(pod, status=replace(pod.status, phase="Pending", conditions=(condition,)))
