"""Policies for the agents' cluster: manifests as files of its store, pods with labels, and streams between them."""

from __future__ import annotations

from typing import Any

from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.kernel.streams import FlowOf, Streams

PORT = 5080
DENY = {"podSelector": {}, "policyTypes": ["Ingress"]}
"""Nobody comes in."""


def selecting(name: str) -> dict[str, Any]:
    """The pods of this name."""
    return {"podSelector": {"matchLabels": {"app": name}}}


def allowing(server: str, *clients: str) -> dict[str, Any]:
    """These come in to that one."""
    return {**selecting(server), "ingress": [{"from": [selecting(client) for client in clients]}]}


class Policies:
    """What tests write into the store of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def put(self, kind: str, name: str, **content: Any) -> None:
        """At once, as a tool writes it: a file of its own."""
        api = {"NetworkPolicy": "networking.k8s.io/v1", "ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2"}
        cluster_wide = kind in ("Node", "ClusterNetworkPolicy")
        meta = {"name": name, **({} if cluster_wide else {"namespace": "default"}), **content.pop("metadata", {})}
        self.cluster.write(
            f"{kind}-{name}", {"apiVersion": api.get(kind, "v1"), "kind": kind, "metadata": meta, **content}
        )

    def policy(self, name: str, spec: dict[str, Any]) -> None:
        self.put("NetworkPolicy", name, spec=spec)

    def remove(self, kind: str, name: str) -> None:
        (self.cluster.store / f"{kind}-{name}.yaml").unlink()

    def pod(self, node: Node, name: str) -> Pod:
        """Declared, born, and declared with its addresses."""
        self.declare(node, name)
        pod = node.pod(name)
        self.declare(node, name, *pod.addresses)
        return pod

    def declare(self, node: Node, name: str, *addresses: str, wanted: str | None = None) -> None:
        """The Pod object, with the annotation that asks for an address."""
        self.put(
            "Pod",
            name,
            metadata={"labels": {"app": name}, "annotations": {"percale.io/ips": wanted} if wanted else {}},
            spec={"nodeName": node.name, "containers": [{"name": "main", "image": "none"}]},
            status={"phase": "Running", "podIPs": [{"ip": each} for each in addresses]} if addresses else {},
        )


def streams(*pairs: tuple[Pod, Pod]) -> Streams:
    """From the first of each pair to the second."""
    namespaces = {pod.addresses[0]: NETNS / pod.name for pair in pairs for pod in pair}
    return Streams((flow(*pair) for pair in pairs), namespaces)


def flow(client: Pod, server: Pod) -> FlowOf:
    return FlowOf(client.addresses[0], server.addresses[0], PORT)
