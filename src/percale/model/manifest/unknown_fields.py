"""Fields that Kubernetes does not have. Called by `decode.py`; the API server's client refuses them (`--validate=strict`).

Objects here have the fields that a network needs. Where all others are known too, any further one is a mistake: `podselector`
for `podSelector` would select every pod of the namespace. Structs that are not listed, such as a pod's spec, take any field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from msgspec import inspect

from percale.errors import BadManifest
from percale.model import clusternetworkpolicy as cnp
from percale.model import networkpolicy as np
from percale.model import selector, service, workloads
from percale.model.field_path import FieldPath, format_field_path
from percale.model.manifest.diagnostics import SourceText
from percale.model.manifest.syntax_tree import descend
from percale.model.meta import Object, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.pod import Pod, PodTemplateSpec
from percale.suggestion import suggest

_ROOT = ("apiVersion", "kind", "status")
_META = ("selfLink", "deletionGracePeriodSeconds", "finalizers", "managedFields", "clusterName")
_NOT_READ: Mapping[type, tuple[str, ...]] = {
    ObjectMeta: _META,
    Namespace: (*_ROOT, "spec"),
    Pod: _ROOT,
    PodTemplateSpec: (),
    selector.LabelSelector: (),
    selector.LabelSelectorRequirement: (),
    np.NetworkPolicy: _ROOT,
    np.NetworkPolicySpec: (),
    np.NetworkPolicyIngressRule: (),
    np.NetworkPolicyEgressRule: (),
    np.NetworkPolicyPeer: (),
    np.NetworkPolicyPort: (),
    np.IPBlock: (),
    cnp.ClusterNetworkPolicy: _ROOT,
    cnp.ClusterNetworkPolicySpec: (),
    cnp.ClusterNetworkPolicySubject: (),
    cnp.NamespacedPod: (),
    cnp.ClusterNetworkPolicyIngressRule: (),
    cnp.ClusterNetworkPolicyEgressRule: (),
    cnp.ClusterNetworkPolicyIngressPeer: (),
    cnp.ClusterNetworkPolicyEgressPeer: (),
    cnp.ClusterNetworkPolicyProtocol: (),
    cnp.ProtocolPorts: (),
    cnp.Port: (),
    cnp.PortRange: (),
    service.Service: _ROOT,
    service.ServiceSpec: ("ipFamily", "topologyKeys"),
    service.ServicePort: ("appProtocol",),
    service.SessionAffinityConfig: (),
    service.ClientIPConfig: (),
    workloads.Deployment: _ROOT,
    workloads.DeploymentSpec: (
        "strategy",
        "minReadySeconds",
        "revisionHistoryLimit",
        "paused",
        "progressDeadlineSeconds",
    ),
    workloads.ReplicaSet: _ROOT,
    workloads.ReplicaSetSpec: ("minReadySeconds",),
    workloads.StatefulSet: _ROOT,
    workloads.StatefulSetSpec: (
        "podManagementPolicy",
        "updateStrategy",
        "revisionHistoryLimit",
        "volumeClaimTemplates",
        "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
        "ordinals",
    ),
    workloads.DaemonSet: _ROOT,
    workloads.DaemonSetSpec: ("updateStrategy", "minReadySeconds", "revisionHistoryLimit"),
    workloads.Job: _ROOT,
}
"""The fields of Kubernetes' that are not in these structs."""


def unknown_fields(kind: type[Object], value: Any) -> Iterator[tuple[FieldPath, tuple[str, ...]]]:
    """Each with the known ones there."""
    yield from _unknown(_described(kind), value, ())


def unknown_field_errors(kind: type[Object], value: Any, source: SourceText) -> Iterator[BadManifest]:
    """The same as errors, with line and the nearest field that is known."""
    for path, known in unknown_fields(kind, value):
        where = f"{source.file}:{descend(source.node, path)[1]}"
        yield BadManifest(f"{format_field_path(path)}: unknown field", where=where, hint=suggest(str(path[-1]), known))


@lru_cache
def _described(kind: type[Object]) -> inspect.Type:
    return inspect.type_info(kind)


def _unknown(expected: inspect.Type, value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, tuple[str, ...]]]:
    if not isinstance(value, dict | list):
        return
    for each in expected.types if isinstance(expected, inspect.UnionType) else (expected,):
        if isinstance(each, inspect.StructType) and isinstance(value, dict):
            fields = {field.encode_name: field.type for field in each.fields}
            closed = _NOT_READ.get(each.cls)
            for key, item in value.items():
                if key in fields:
                    yield from _unknown(fields[key], item, (*path, key))
                elif closed is not None and key not in closed:
                    yield (*path, key), tuple(fields)
        elif isinstance(each, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _unknown(each.item_type, item, (*path, index))
