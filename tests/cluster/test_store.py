"""What the fake API server takes for granted, on a real one: pages, a CRD that comes and goes, conditions, rights."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.certificates import issue
from tests.cluster.api_server import AGENT, KubeApiServer
from tests.unit.store.conftest import upcoming

from percale.errors import StoreUnavailable
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.condition import Condition
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.node import Node, NodeStatus
from percale.store.kubernetes import list_pages, list_watch
from percale.store.kubernetes.store import KubernetesStore, open_kubernetes
from percale.store.protocol import Deleted, ReadProblem, Snapshot, Upserted

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "clusternetworkpolicies.policy.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
    },
    "spec": {
        "group": "policy.networking.k8s.io",
        "scope": "Cluster",
        "names": {"plural": "clusternetworkpolicies", "kind": "ClusterNetworkPolicy"},
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
POLICY = {
    "apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "p"},
    "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
}


@pytest.fixture
async def store(kube_apiserver: KubeApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesStore]:
    monkeypatch.setattr(list_watch, "ABSENT_RECHECK", 0.3)
    made = open_kubernetes(kube_apiserver.address.removeprefix("kubernetes:"))
    yield made
    await made.close()


async def test_pages(store: KubernetesStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_pages, "PAGE", 5)
    names = [f"page-{number:02d}" for number in range(12)]
    for name in names:
        await store.put(ConfigMap(metadata=ObjectMeta(name=name)), expect="")
    listed = [each.metadata.name for each in await store.list(ConfigMap) if each.metadata.namespace == "default"]
    assert listed == names
    snapshot = await upcoming(store.watch(ConfigMap))
    assert isinstance(snapshot, Snapshot)
    assert {each.metadata.name for each in snapshot.of(ConfigMap)} >= set(names)
    for name in names:
        await store.delete(ConfigMap, ObjectKey("default", name))


async def test_a_crd_comes_and_goes(kube_apiserver: KubeApiServer, store: KubernetesStore) -> None:
    assert await store.list(ClusterNetworkPolicy) == []
    events = store.watch(ClusterNetworkPolicy)
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.of(ClusterNetworkPolicy) == []
    kube_apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(CRD))
    kube_apiserver.kubectl("wait", "--for=condition=established", "--timeout=30s", f"crd/{CRD['metadata']['name']}")  # type: ignore[index]
    kube_apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(POLICY))
    event = await upcoming(events)
    assert isinstance(event, Upserted)
    assert event.object.key == ObjectKey(None, "p")
    kube_apiserver.kubectl("delete", "crd", str(CRD["metadata"]["name"]))  # type: ignore[index]
    while isinstance(event := await upcoming(events), ReadProblem):
        pass
    assert isinstance(event, Deleted)


async def test_conditions_of_others_stay_whole(kube_apiserver: KubeApiServer, store: KubernetesStore) -> None:
    await store.put(Node(metadata=ObjectMeta(name="whole")), expect="")
    beat = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "reason": "KubeletReady"}
    patch = json.dumps({"status": {"conditions": [beat], "nodeInfo": {"kernelVersion": "6.1"}}})
    kube_apiserver.kubectl("patch", "node", "whole", "--subresource=status", "--type=merge", "-p", patch)
    node = await store.get(Node, ObjectKey(None, "whole"))
    assert node is not None
    ours = Condition(type="NetworkUnavailable", status="False")
    changed = replace(node, status=NodeStatus(conditions=(*node.status.conditions, ours)))
    written = await store.put(changed, expect=node.metadata.resourceVersion)
    assert written.status.conditions[-1].type == "NetworkUnavailable"
    status = json.loads(kube_apiserver.kubectl("get", "node", "whole", "-o", "json"))["status"]
    assert {key: status["conditions"][0].get(key) for key in beat} == beat
    assert status["nodeInfo"]["kernelVersion"] == "6.1"
    await store.delete(Node, node.key)


async def test_rights_and_client_certificates(kube_apiserver: KubeApiServer, tmp_path: Path) -> None:
    weak = open_kubernetes(str(kube_apiserver.kubeconfig("weak", AGENT)))
    with pytest.raises(
        StoreUnavailable, match=r"user percale may not list nodes; give its role the verb list on nodes$"
    ):
        await weak.list(Node)
    with pytest.raises(StoreUnavailable, match="user percale may not create configmaps"):
        await weak.put(ConfigMap(metadata=ObjectMeta(name="a")), expect="")
    await weak.close()
    client = issue(kube_apiserver.authority, "client", subject="/O=system:masters/CN=operator")
    strong = open_kubernetes(str(kube_apiserver.kubeconfig("strong", None, client)))
    assert await strong.list(Node) == []
    await strong.close()
    expired = issue(kube_apiserver.authority, "expired", subject="/O=system:masters/CN=operator", days=-1)
    late = open_kubernetes(str(kube_apiserver.kubeconfig("late", None, expired)))
    with pytest.raises(StoreUnavailable, match="the credentials are not accepted; renew the token or certificate"):
        await late.list(Node)
    await late.close()
