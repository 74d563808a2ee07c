"""What the manifests contain beside policies: pods (and pod templates), namespaces, pod networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from ipaddress import collapse_addresses, ip_network

from msgspec import Struct, field

from percale.model.addresses import IPNetwork
from percale.model.configmap import ConfigMap
from percale.model.manifest.decode import DEFAULT_NAMESPACE, ManifestEntry
from percale.model.meta import Object
from percale.model.namespace import NAME_LABEL, Namespace
from percale.model.netconf import parse_network_config
from percale.model.node import Node
from percale.model.pod import ContainerPort, Pod, PodTemplateSpec
from percale.model.selector import LabelSelector
from percale.model.workloads import Workload
from percale.policy.rule_terms import PodSelectorTerm

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
"""Every cluster has them, with pods of its own, whether manifests say so or not."""

_NET_CONF = "net-conf.json"


class InventoryPod(Struct, frozen=True):
    """A pod or pod template that policies may select (no hostNetwork). `name` is unique."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...]


class ManifestInventory(Struct, frozen=True, dict=True):
    """`namespaces` with their labels; `namespaces_known`: there are Namespace objects, not only pods."""

    pods: tuple[InventoryPod, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    namespaces_known: bool
    networks: tuple[IPNetwork, ...]
    """The pod networks."""

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
        return self.namespaces_known or keys <= {NAME_LABEL}


def inventory_of(found: Iterable[ManifestEntry], networks: Sequence[IPNetwork]) -> ManifestInventory:
    """Of all objects. `networks` override those of nodes, a net-conf ConfigMap or pods. Raises BadNetworkConfig."""
    objects = [each.object for each in found]
    pods = tuple(pod for obj in objects if (pod := _inventory_pod(obj)) is not None)
    declared = {obj.metadata.name: obj.labels for obj in objects if isinstance(obj, Namespace)}
    implied = (*SYSTEM_NAMESPACES, DEFAULT_NAMESPACE, *(pod.namespace for pod in pods))
    namespaces = {name: {NAME_LABEL: name} for name in implied} | declared
    return ManifestInventory(pods, namespaces, bool(declared), tuple(networks) or _networks(objects, found))


def _inventory_pod(obj: Object) -> InventoryPod | None:
    if isinstance(obj, Workload):
        pod: Pod | PodTemplateSpec = obj.spec.template
    elif isinstance(obj, Pod) and obj.status.phase not in ("Succeeded", "Failed"):
        pod = obj
    else:
        return None
    if pod.spec.hostNetwork:
        return None
    ports = tuple(port for container in pod.spec.containers for port in container.ports)
    namespace = obj.metadata.namespace or DEFAULT_NAMESPACE
    return InventoryPod(f"{obj.KIND} {obj.key}", namespace, pod.metadata.labels, ports)


def _networks(objects: Sequence[Object], found: Iterable[ManifestEntry]) -> tuple[IPNetwork, ...]:
    configured = [
        network
        for each in found
        if isinstance(each.object, ConfigMap) and _NET_CONF in each.object.data
        for network in parse_network_config(each.object.data[_NET_CONF], f"{each.source} {_NET_CONF}").networks
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
