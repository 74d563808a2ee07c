"""What the manifests contain beside policies: pods (and pod templates), Services, namespaces, networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from ipaddress import collapse_addresses, ip_network

from msgspec import Struct, field

from percale.model.addresses import IPNetwork
from percale.model.configmap import ConfigMap
from percale.model.manifest.decode import DEFAULT_NAMESPACE, ManifestEntry, SkippedDocument
from percale.model.meta import Object
from percale.model.namespace import NAME_LABEL, Namespace
from percale.model.netconf import NET_CONF, parse_network_config
from percale.model.node import Node
from percale.model.pod import ContainerPort, Pod, PodTemplateSpec
from percale.model.selector import LabelSelector
from percale.model.service import Service
from percale.model.workloads import CronJob, Workload
from percale.policy.lint.finding import LintedService
from percale.policy.rule_terms import PodSelectorTerm

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
"""Every cluster has them, with pods of its own, whether manifests say so or not."""


class InventoryPod(Struct, frozen=True):
    """A pod or pod template. `name` is unique."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...]


class ManifestInventory(Struct, frozen=True, dict=True):
    """`namespaces` with their labels; `declared_namespaces` have an object, others only pods."""

    pods: tuple[InventoryPod, ...]
    host_pods: tuple[InventoryPod, ...]
    """In their nodes' network: Services may select them, policies do not."""
    services: tuple[LintedService, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    declared_namespaces: frozenset[str]
    networks: tuple[IPNetwork, ...]
    """The pod networks."""
    service_networks: tuple[IPNetwork, ...]
    """Of the cluster IPs, if they are known."""
    makers: frozenset[str]
    """Names and kinds of objects that are not known here: an operator may make pods of them."""

    _selected: dict[PodSelectorTerm, Sequence[InventoryPod]] = field(default_factory=dict)
    """Cache: many policies select the same pods."""

    @cached_property
    def _by_namespace(self) -> Mapping[str, Sequence[InventoryPod]]:
        found: dict[str, list[InventoryPod]] = {}
        for pod in self.pods:
            found.setdefault(pod.namespace, []).append(pod)
        return found

    def in_namespace(self, namespace: str) -> Sequence[InventoryPod]:
        """Its pods."""
        return self._by_namespace.get(namespace, ())

    def behind(self, service: Service) -> Iterator[InventoryPod]:
        """The pods that a Service selects."""
        namespace, wanted = service.metadata.namespace or DEFAULT_NAMESPACE, service.spec.selector.items()
        candidates = (*self.in_namespace(namespace), *(pod for pod in self.host_pods if pod.namespace == namespace))
        return (pod for pod in candidates if wanted and wanted <= pod.labels.items())

    @cached_property
    def _services_of(self) -> Mapping[str, Sequence[Service]]:
        found: dict[str, list[Service]] = {}
        for service in self.services:
            for pod in self.behind(service.object):
                found.setdefault(pod.name, []).append(service.object)
        return found

    def services_of(self, pod: InventoryPod) -> Sequence[Service]:
        """The Services that select this pod."""
        return self._services_of.get(pod.name, ())

    def may_be_made(self, selector: LabelSelector) -> bool:
        """Whether an operator may make the pods: they tend to have the name or the kind of its object as a label."""
        values = {
            *selector.matchLabels.values(),
            *(value for each in selector.matchExpressions for value in each.values),
        }
        return not self.makers.isdisjoint(value.casefold() for value in values)

    def matching_namespaces(self, where: str | LabelSelector) -> list[str]:
        """The namespaces that are named or selected."""
        if isinstance(where, str):
            return [where]
        return [name for name, labels in self.namespaces.items() if where.matches(labels)]

    def selected(self, term: PodSelectorTerm) -> Sequence[InventoryPod]:
        """The pods that are selected."""
        if term not in self._selected:
            self._selected[term] = [
                pod
                for namespace in self.matching_namespaces(term.namespaces)
                for pod in self.in_namespace(namespace)
                if term.pods.matches(pod.labels)
            ]
        return self._selected[term]

    def knows_pods_of(self, term: PodSelectorTerm) -> bool:
        """False when the term may match pods that the manifests do not contain."""
        where = term.namespaces
        if not self.pods or not (isinstance(where, str) or self.knows(where)):
            return False
        return all(self.in_namespace(name) for name in self.matching_namespaces(where) if name in SYSTEM_NAMESPACES)

    def knows(self, selector: LabelSelector) -> bool:
        """Whether the namespaces that it selects are known: their labels are, or it requires only names."""
        keys = {*selector.matchLabels, *(each.key for each in selector.matchExpressions)}
        return bool(self.declared_namespaces) or keys <= {NAME_LABEL}


def inventory_of(
    found: Iterable[ManifestEntry],
    networks: Sequence[IPNetwork] = (),
    service_networks: Sequence[IPNetwork] = (),
    skipped: Iterable[SkippedDocument] = (),
) -> ManifestInventory:
    """Of all objects; the networks are known to the caller."""
    objects = [each.object for each in found]
    workloads = [(obj, template) for obj in objects if (template := _pod_of(obj)) is not None]
    pods, host_pods = (
        tuple(_inventory_pod(obj, template) for obj, template in workloads if template.spec.hostNetwork is on_host)
        for on_host in (False, True)
    )
    declared = {obj.metadata.name: obj.labels for obj in objects if isinstance(obj, Namespace)}
    implied = (*SYSTEM_NAMESPACES, DEFAULT_NAMESPACE, *(pod.namespace for pod in pods))
    namespaces = {name: {NAME_LABEL: name} for name in implied} | declared
    return ManifestInventory(
        pods,
        host_pods,
        tuple(LintedService(each.object, each.source) for each in found if isinstance(each.object, Service)),
        namespaces,
        frozenset(declared),
        tuple(networks),
        tuple(service_networks),
        frozenset(word.casefold() for each in skipped for word in (each.name, each.kind) if word),
    )


def _pod_of(obj: Object) -> Pod | PodTemplateSpec | None:
    if isinstance(obj, Workload):
        return obj.spec.template
    if isinstance(obj, CronJob):
        return obj.spec.jobTemplate.spec.template
    return obj if isinstance(obj, Pod) and obj.status.phase not in ("Succeeded", "Failed") else None


def _inventory_pod(obj: Object, pod: Pod | PodTemplateSpec) -> InventoryPod:
    ports = tuple(port for container in pod.spec.containers for port in container.ports)
    namespace = obj.metadata.namespace or DEFAULT_NAMESPACE
    return InventoryPod(f"{obj.KIND} {obj.key}", namespace, pod.metadata.labels, ports)


def pod_networks_of(found: Sequence[ManifestEntry]) -> tuple[IPNetwork, ...]:
    """Of a net-conf ConfigMap, else of nodes, else of pods. Raises BadNetworkConfig."""
    objects = [each.object for each in found]
    configured = [
        network
        for each in found
        if isinstance(each.object, ConfigMap) and NET_CONF in each.object.data
        for network in parse_network_config(each.object.data[NET_CONF], f"{each.source} {NET_CONF}").networks
    ]
    if configured:
        return tuple(configured)
    cut = [cidr for obj in objects if isinstance(obj, Node) for cidr in obj.pod_cidrs]
    if cut:
        return _collapsed(cut)
    pods = [obj for obj in objects if isinstance(obj, Pod) and not obj.spec.hostNetwork]
    return _collapsed([ip_network(address) for pod in pods for address in pod.ips])


def _collapsed(networks: Sequence[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(
        network
        for version in (4, 6)
        for network in collapse_addresses(each for each in networks if each.version == version)  # type: ignore[type-var]
    )
