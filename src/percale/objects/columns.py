"""The table of `get` for each kind, with kubectl's columns. Pure; called by `selection` and the lab's verbs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.event import Event
from percale.model.manifest.encode import to_plain
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.workloads import (
    CronJob,
    DaemonSet,
    Deployment,
    Job,
    JobTemplateSpec,
    ReplicaSet,
    StatefulSet,
    Workload,
    desired_replicas,
)
from percale.objects.kind_names import full_name

Cells = Sequence[str]
Row = Callable[[Object, "ColumnContext"], Cells]


_MOST = 3
"""Addresses shown in a cell."""


class ColumnContext(NamedTuple):
    """What rows need beside their own object."""

    subnets: Mapping[str, str]
    """Each node's pod subnets."""
    now: datetime


class Columns(NamedTuple):
    """A kind's columns: heads and cells; the last `wide` are shown with -o wide only."""

    heads: Sequence[str]
    cells: Row
    wide: int = 0


def rows(
    objects: Sequence[Object], context: ColumnContext, *, wide: bool, namespaces: bool, kinds: bool = False
) -> list[list[str]]:
    """Head and rows of objects of one kind, which is part of their names if `kinds`."""
    kind = objects[0].KIND if objects else ""
    columns = _TABLES.get(kind, _OTHER)
    shown = len(columns.heads) - (0 if wide else columns.wide)
    with_namespace = namespaces and bool(objects) and objects[0].NAMESPACED
    head = (["NAMESPACE"] if with_namespace else []) + ["NAME", *columns.heads[:shown]]
    table = [head]
    reasons = [reason(obj) if isinstance(obj, Pod) else None for obj in objects]
    if any(reasons):
        head.append("REASON")
    for obj, why in zip(objects, reasons, strict=True):
        start = [obj.metadata.namespace or ""] if with_namespace else []
        end = [why or ""] if any(reasons) else []
        name = full_name(obj) if kinds else obj.metadata.name
        table.append([*start, name, *list(columns.cells(obj, context))[:shown], *end])
    return table


def age(obj: Object, now: datetime) -> str:
    """`8s`, `12m`, `3h`, `2d`."""
    try:
        born = datetime.fromisoformat(obj.metadata.creationTimestamp or "").astimezone(UTC)
    except (ValueError, OverflowError):  # the year 0 of another time zone, say
        return "<unknown>"
    seconds = int((now - born).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def reason(pod: Pod) -> str | None:
    """The message of the pod's first false condition."""
    return next((each.message for each in pod.status.conditions if each.status == "False" and each.message), None)


def pod_state(pod: Pod) -> str:
    """As kubectl's STATUS: Pending, ContainerCreating, Running, Terminating."""
    if pod.terminating:
        return "Terminating"
    if pod.ready:
        return "Running"
    return "Pending" if not pod.spec.nodeName else "ContainerCreating"


def missing_pods(pods: Iterable[Pod], nodes: Collection[str]) -> list[str]:
    """A line for each pod that is not Ready, with the reason; `nodes` are those that are there."""
    return [f"pod {pod.key}: {_why_missing(pod, nodes)}" for pod in pods if not pod.ready]


def _why_missing(pod: Pod, nodes: Collection[str]) -> str:
    node = pod.spec.nodeName
    return f"its node {node} is not there" if node and node not in nodes else reason(pod) or pod_state(pod)


def _pod(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Pod)
    count = len(obj.spec.containers) or 1
    ready = count if obj.ready else 0
    restarts = sum(each.restartCount for each in obj.status.containerStatuses)
    addresses = ",".join(obj.status.addresses) or "<none>"
    node = obj.spec.nodeName or "<none>"
    return f"{ready}/{count}", pod_state(obj), str(restarts), age(obj, context.now), addresses, node


def _node(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Node)
    addresses = obj.status.internal_ips
    labels = {key: value for key, value in obj.metadata.labels.items() if not key.startswith("kubernetes.io/")}
    return (
        "Ready" if obj.ready else "NotReady",
        age(obj, context.now),
        addresses[0] if addresses else "<none>",
        context.subnets.get(obj.metadata.name, "<none>"),
        _selector(labels),
    )


def _deployment(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Deployment)
    status = obj.status
    ready = f"{status.readyReplicas}/{desired_replicas(obj)}"
    return ready, str(status.updatedReplicas), str(status.availableReplicas), age(obj, context.now), *_template(obj)


def _stateful_set(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, StatefulSet)
    return f"{obj.status.readyReplicas}/{desired_replicas(obj)}", age(obj, context.now), *_template(obj)


def _replica_set(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, ReplicaSet)
    counts = (desired_replicas(obj), obj.status.replicas, obj.status.readyReplicas)
    return *map(str, counts), age(obj, context.now), *_template(obj)


def _daemon_set(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, DaemonSet)
    status = obj.status
    counts = (
        status.desiredNumberScheduled,
        status.currentNumberScheduled,
        status.numberReady,
        status.updatedNumberScheduled,
        status.numberAvailable,
    )
    selector = _selector(obj.spec.template.spec.nodeSelector)
    return *map(str, counts), selector, age(obj, context.now), *_template(obj)


def _job(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Job)
    return f"{obj.status.active} running", age(obj, context.now), *_template(obj)


def _cron_job(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, CronJob)
    return obj.spec.schedule, age(obj, context.now), *_template(obj.spec.jobTemplate)


def _service(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Service)
    spec = obj.spec
    ports = ",".join(
        f"{port.port}{f':{port.nodePort}' if port.nodePort else ''}/{port.protocol}" for port in spec.ports
    )
    return (
        spec.type,
        spec.clusterIP or "<none>",
        _external(obj),
        ports or "<none>",
        age(obj, context.now),
        _selector(spec.selector),
    )


def _external(service: Service) -> str:
    spec = service.spec
    if spec.type == "ExternalName":
        return spec.externalName or "<none>"
    balanced = [each.ip or each.hostname or "" for each in service.status.loadBalancer.ingress]
    waiting = spec.type == "LoadBalancer" and not balanced
    return ",".join([*balanced, *spec.externalIPs]) or ("<pending>" if waiting else "<none>")


def _slice(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, EndpointSlice)
    ports = [str(port.port) if port.port is not None else "*" for port in obj.ports]
    addresses = [address for endpoint in obj.endpoints for address in endpoint.addresses[:1]]
    return obj.addressType, _some(ports, "<unset>"), _some(addresses, "<unset>"), age(obj, context.now)


def _endpoints(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Endpoints)
    formatted = [
        f"[{address.ip}]:{port.port}" if ":" in address.ip else f"{address.ip}:{port.port}"
        for subset in obj.subsets
        for port in subset.ports
        for address in subset.addresses
    ]
    return _some(formatted, "<none>"), age(obj, context.now)


def _some(texts: Sequence[str], nothing: str) -> str:
    """The first three, and how many more there are."""
    more = f" + {len(texts) - _MOST} more..." if len(texts) > _MOST else ""
    return ",".join(texts[:_MOST]) + more or nothing


def _policy(obj: Object, context: ColumnContext) -> Cells:
    spec = to_plain(obj).get("spec", {})
    selector = spec.get("podSelector", {})
    return _selector(selector.get("matchLabels", {})), age(obj, context.now)


def _cluster_policy(obj: Object, context: ColumnContext) -> Cells:
    spec = to_plain(obj)["spec"]
    return spec["tier"], str(spec["priority"]), age(obj, context.now)


def _lease(obj: Object, context: ColumnContext) -> Cells:
    spec = to_plain(obj)["spec"]
    subnets = [spec[key] for key in ("subnet", "ipv6Subnet") if spec.get(key)]
    addresses = [spec[key] for key in ("publicIP", "publicIPv6") if spec.get(key)]
    data = spec.get("backendData") or {}
    text = data if isinstance(data, str) else " ".join(f"{key}={value}" for key, value in data.items())
    return spec["node"], ",".join(subnets), ",".join(addresses), spec.get("backendType", ""), text or "<none>"


def _config_map(obj: Object, context: ColumnContext) -> Cells:
    return str(len(to_plain(obj).get("data", {}))), age(obj, context.now)


def _event(obj: Object, context: ColumnContext) -> Cells:
    assert isinstance(obj, Event)
    about = obj.involvedObject
    return obj.type, obj.reason, f"{about.kind.lower()}/{about.name}", obj.source.host, str(obj.count), obj.message


def _other(obj: Object, context: ColumnContext) -> Cells:
    return (age(obj, context.now),)


def _template(obj: Workload | JobTemplateSpec) -> tuple[str, str]:
    """Container names and images."""
    containers = obj.spec.template.spec.containers
    return ",".join(each.name for each in containers), ",".join(each.image or "<none>" for each in containers)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"


_OTHER = Columns(("AGE",), _other)
_TABLES: Mapping[str, Columns] = {
    "Pod": Columns(("READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"), _pod, wide=2),
    "Node": Columns(("STATUS", "AGE", "INTERNAL-IP", "POD-SUBNET", "LABELS"), _node, wide=3),
    "Deployment": Columns(("READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES"), _deployment, wide=2),
    "StatefulSet": Columns(("READY", "AGE", "CONTAINERS", "IMAGES"), _stateful_set, wide=2),
    "ReplicaSet": Columns(("DESIRED", "CURRENT", "READY", "AGE", "CONTAINERS", "IMAGES"), _replica_set, wide=2),
    "DaemonSet": Columns(
        ("DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE SELECTOR", "AGE", "CONTAINERS", "IMAGES"),
        _daemon_set,
        wide=2,
    ),
    "CronJob": Columns(("SCHEDULE", "AGE", "CONTAINERS", "IMAGES"), _cron_job, wide=2),
    "Job": Columns(("STATUS", "AGE", "CONTAINERS", "IMAGES"), _job, wide=2),
    "Service": Columns(("TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"), _service, wide=1),
    "EndpointSlice": Columns(("ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"), _slice),
    "Endpoints": Columns(("ENDPOINTS", "AGE"), _endpoints),
    "NetworkPolicy": Columns(("POD-SELECTOR", "AGE"), _policy),
    "ClusterNetworkPolicy": Columns(("TIER", "PRIORITY", "AGE"), _cluster_policy),
    "SubnetLease": Columns(("NODE", "SUBNET", "PUBLIC-IP", "BACKEND", "BACKEND-DATA"), _lease, wide=1),
    "ConfigMap": Columns(("DATA", "AGE"), _config_map),
    "Event": Columns(("TYPE", "REASON", "OBJECT", "NODE", "COUNT", "MESSAGE"), _event),
}
