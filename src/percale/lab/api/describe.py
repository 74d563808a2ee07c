"""`percale lab describe`: an object, what belongs to it and its events, as kubectl describes it. Pure; called by `read_verbs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import TypeAlias, TypeVar

from msgspec import Struct, to_builtins

from percale.lab.api.describe_policy import policy_lines
from percale.lab.machines.agent_state import AgentState
from percale.model.condition import Condition
from percale.model.endpoints import SERVICE_LABEL, EndpointSlice
from percale.model.event import Event
from percale.model.manifest.yaml_writer import plain_to_yaml
from percale.model.meta import Object, ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Container, Pod
from percale.model.service import Service, ServicePort
from percale.model.subnet_lease import SubnetLease
from percale.objects.columns import age, pod_state, reason
from percale.text_columns import columns

T = TypeVar("T", bound=Object)

Fields: TypeAlias = Iterable[tuple[str, str | Sequence[str]]]
"""Names with their values; several values are one below the other."""

_NONE = "<none>"


class Neighbourhood(Struct, frozen=True):
    """What an object is described with, in its own namespace or on its node; `agents` by node."""

    pods: Sequence[Pod]
    policies: Sequence[NetworkPolicy]
    slices: Sequence[EndpointSlice]
    leases: Sequence[SubnetLease]
    nodes: Mapping[str, Node]
    agents: Mapping[str, AgentState]
    events: Sequence[Event]
    now: datetime


def describe(obj: Object, around: Neighbourhood) -> list[str]:
    """The page's lines; the object's status is a live one."""
    lines: Iterator[str]
    match obj:
        case Pod():
            lines = _pod(obj, around)
        case Service():
            lines = _service(obj, around)
        case Node():
            lines = _node(obj, around)
        case NetworkPolicy():
            selected = [pod.metadata.name for pod in _inside(obj, around.pods) if _selects(obj, pod)]
            lines = chain(_fields(_head(obj)), policy_lines(obj), _fields([("Selected Pods", selected)]))
        case _:
            lines = _other(obj)
    return [*lines, *_events(obj, around)]


def _fields(fields: Fields, indent: str = "") -> Iterator[str]:
    rows = []
    for name, values in fields:
        several = [values] if isinstance(values, str) else list(values) or [_NONE]
        rows += [(f"{name}:" if number == 0 else "", value) for number, value in enumerate(several)]
    yield from columns(rows, indent)


def _head(obj: Object) -> Fields:
    metadata = obj.metadata
    yield "Name", metadata.name
    if obj.NAMESPACED:
        yield "Namespace", metadata.namespace or _NONE
    yield "Created", metadata.creationTimestamp or "<unknown>"
    yield "Labels", [f"{key}={value}" for key, value in sorted(metadata.labels.items())]
    yield "Annotations", [f"{key}: {value}" for key, value in sorted(metadata.annotations.items())]


def _pod(pod: Pod, around: Neighbourhood) -> Iterator[str]:
    node = around.nodes.get(pod.spec.nodeName or "")
    on = "".join(f"/{each}" for each in node.status.internal_ips[:1]) if node else ""
    owner = next((f"{each.kind}/{each.name}" for each in pod.metadata.ownerReferences if each.controller), None)
    yield from _fields(
        [
            *_head(pod),
            ("Node", f"{pod.spec.nodeName}{on}" if pod.spec.nodeName else _NONE),
            ("Status", pod_state(pod)),
            *((("Reason", why),) if (why := reason(pod)) else ()),
            ("IPs", pod.status.addresses),
            *((("Controlled By", owner),) if owner else ()),
            ("Host Network", str(pod.spec.hostNetwork).lower()),
            ("Node-Selectors", [f"{key}={value}" for key, value in sorted(pod.spec.nodeSelector.items())]),
            ("Network Policies", [each.metadata.name for each in _inside(pod, around.policies) if _selects(each, pod)]),
        ]
    )
    yield "Containers:"
    statuses = {each.name: each for each in pod.status.containerStatuses}
    for container in pod.spec.containers:
        yield f"  {container.name}:"
        status = statuses.get(container.name)
        yield from _fields(
            [
                *_container(container),
                ("Ready", str(status is not None and status.ready)),
                ("Restart Count", str(status.restartCount if status is not None else 0)),
            ],
            "    ",
        )
    yield from _conditions(pod.status.conditions)


def _container(container: Container) -> Fields:
    yield "Image", container.image or _NONE
    yield "Ports", [f"{port.containerPort}/{port.protocol}" for port in container.ports]
    yield "Host Ports", [f"{port.hostPort or 0}/{port.protocol}" for port in container.ports]
    if container.command or container.args:
        yield "Command", [*container.command, *container.args]


def _service(service: Service, around: Neighbourhood) -> Iterator[str]:
    spec = service.spec
    slices = [
        each
        for each in _inside(service, around.slices)
        if each.metadata.labels.get(SERVICE_LABEL) == service.metadata.name
    ]
    yield from _fields(
        [
            *_head(service),
            ("Selector", ",".join(f"{key}={value}" for key, value in sorted(spec.selector.items())) or _NONE),
            ("Type", spec.type),
            ("IP Families", ",".join(spec.ipFamilies) or _NONE),
            ("IP", spec.clusterIP or _NONE),
            ("IPs", ",".join(spec.clusterIPs) or _NONE),
            *((("External Name", spec.externalName),) if spec.externalName else ()),
            *((("External IPs", ",".join(spec.externalIPs)),) if spec.externalIPs else ()),
            *_balancer(service),
            *(field for port in spec.ports for field in _service_port(port, slices)),
            ("Session Affinity", spec.sessionAffinity),
            *((("External Traffic Policy", spec.externalTrafficPolicy),) if spec.externalTrafficPolicy else ()),
            ("Internal Traffic Policy", spec.internalTrafficPolicy or "Cluster"),
        ]
    )


def _balancer(service: Service) -> Fields:
    addresses = [each.ip or each.hostname or "" for each in service.status.loadBalancer.ingress]
    if service.spec.type == "LoadBalancer":
        yield "LoadBalancer Ingress", ", ".join(addresses) or "<pending>"


def _service_port(port: ServicePort, slices: Sequence[EndpointSlice]) -> Fields:
    yield "Port", f"{port.name or '<unset>'}  {port.port}/{port.protocol}"
    yield "TargetPort", f"{port.targetPort or port.port}/{port.protocol}"
    if port.nodePort:
        yield "NodePort", f"{port.name or '<unset>'}  {port.nodePort}/{port.protocol}"
    yield "Endpoints", list(_endpoints(port, slices))


def _endpoints(port: ServicePort, slices: Sequence[EndpointSlice]) -> Iterator[str]:
    for each in slices:
        number = next((one.port for one in each.ports if (one.name or None) == port.name), None)
        for endpoint in each.endpoints if number is not None else ():
            for address in endpoint.addresses:
                text = f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
                pod = f"  {endpoint.targetRef.name}" if endpoint.targetRef is not None else ""
                on = f" on {endpoint.nodeName}" if endpoint.nodeName else ""
                yield f"{text}{pod}{on}{'' if endpoint.conditions.ready is not False else '  not ready'}"


def _node(node: Node, around: Neighbourhood) -> Iterator[str]:
    name = node.metadata.name
    lease = next((each for each in around.leases if each.spec.node == name), None)
    agent = around.agents.get(name)
    state = "<none>" if agent is None else f"{'ready' if agent.ready else 'not ready'}, pid {agent.pid or _NONE}"
    yield from _fields(
        [
            *_head(node),
            ("Unschedulable", str(node.spec.unschedulable).lower()),
            ("Addresses", [f"{each.type}: {each.address}" for each in node.status.addresses]),
            ("PodCIDRs", list(map(str, lease.spec.subnets)) if lease is not None else _NONE),
            ("Backend", lease.spec.backendType if lease is not None else _NONE),
            ("Agent", f"{state}, {agent.restarts if agent is not None else 0} restarts"),
            *((("Problem", agent.problem),) if agent is not None and agent.problem else ()),
        ]
    )
    yield from _conditions(node.status.conditions)
    pods = [pod for pod in around.pods if pod.spec.nodeName == name]
    yield f"Non-terminated Pods: ({len(pods)} in total)"
    rows = [(pod.metadata.namespace or "", pod.metadata.name, pod_state(pod), age(pod, around.now)) for pod in pods]
    yield from columns([("Namespace", "Name", "Status", "Age"), *rows], "  ") if rows else ()


def _other(obj: Object) -> Iterator[str]:
    """Any other kind: what is in it, as YAML."""
    yield from _fields([*_head(obj), ("API Version", obj.API_VERSION), ("Kind", obj.KIND)])
    rest = {key: value for key, value in to_builtins(obj, enc_hook=str).items() if key != "metadata"}
    yield from plain_to_yaml(rest).splitlines() if rest else ()


def _conditions(conditions: Sequence[Condition]) -> Iterator[str]:
    yield "Conditions:"
    rows = [(each.type, each.status, each.reason or "", each.message or "") for each in conditions]
    yield from columns([("Type", "Status", "Reason", "Message"), *rows], "  ")


def _events(obj: Object, around: Neighbourhood) -> Iterator[str]:
    key = obj.key if obj.NAMESPACED else ObjectKey(None, obj.metadata.name)
    about = [
        each
        for each in around.events
        if each.involvedObject.kind == obj.KIND
        and key in (each.involvedObject.key, ObjectKey(None, each.involvedObject.name))
    ]
    if not about:
        yield f"Events:  {_NONE}"
        return
    yield "Events:"
    rows = [
        (each.type, each.reason, f"x{each.count}", f"{each.source.component}, {each.source.host}", each.message)
        for each in about
    ]
    yield from columns([("Type", "Reason", "Count", "From", "Message"), *rows], "  ")


def _selects(policy: NetworkPolicy, pod: Pod) -> bool:
    return policy.spec.podSelector.matches(pod.metadata.labels) and not pod.spec.hostNetwork


def _inside(obj: Object, others: Iterable[T]) -> Iterator[T]:
    return (each for each in others if each.metadata.namespace == obj.metadata.namespace)
