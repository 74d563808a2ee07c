"""Nodes whose objects are a real API server's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.cluster.api_server import AGENT, KubeApiServer
from tests.kernel.agent.cluster import Cluster, Node, Pod

from percale.lab.kubernetes.manifests import AGENT_RULES

RIGHTS = AGENT_RULES
"""All that an agent needs, and nothing else: test_installation.py."""


@dataclass
class KubernetesCluster:
    """Nodes of `cluster`, objects of `server`. The test is kubelet and controller."""

    cluster: Cluster
    server: KubeApiServer

    def apply(self, *documents: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(items))

    def get(self, *what: str) -> dict[str, Any]:
        return dict(json.loads(self.server.kubectl("get", "-o", "json", *what)))

    def allow(self, *rules: dict[str, Any]) -> None:
        """To the agents, and nothing else."""
        api = "rbac.authorization.k8s.io/v1"
        subject = {"kind": "User", "name": "percale", "apiGroup": "rbac.authorization.k8s.io"}
        reference = {"kind": "ClusterRole", "name": "percale", "apiGroup": "rbac.authorization.k8s.io"}
        self.apply(
            {"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": "percale"}, "rules": list(rules)},
            {
                "apiVersion": api,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "percale"},
                "roleRef": reference,
                "subjects": [subject],
            },
        )

    def register(self, number: int, *cidrs: str) -> None:
        """A Node as its kubelet and a controller make it."""
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        annotations = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
        metadata = {"name": f"n{number}", "annotations": annotations}
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
        status = {
            "addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        }
        self.patch("node", f"n{number}", {"status": status})

    def node(self, number: int, *, assigned: bool = True, **settings: Any) -> Node:
        """Registered, its subnet assigned or not; the agent is not started."""
        self.register(number, *([f"10.244.{number}.0/24"] if assigned else []))
        store = f"kubernetes:{self.server.kubeconfig('agent', AGENT)}"
        return self.cluster.node(number, store=store, **settings)

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> None:
        self.server.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps(change))

    def bind(self, node: Node, name: str) -> None:
        """A pod for the node, as a scheduler leaves it."""
        spec = {
            "nodeName": node.name,
            "containers": [{"name": "c", "image": "none"}],
            "tolerations": [{"operator": "Exists"}],
        }
        metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def pod(self, node: Node, name: str) -> Pod:
        """Bound to the node, wired by its agent, and running."""
        self.bind(node, name)
        pod = node.pod(name)
        ips = [{"ip": address} for address in pod.addresses]
        status = {"phase": "Running", "podIP": pod.addresses[0], "podIPs": ips, "hostIP": f"192.168.0.{node.name[1:]}"}
        self.patch("pod", name, {"status": status})
        return pod
