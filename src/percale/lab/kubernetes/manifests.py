"""What a kubelet writes of nodes and pods, and the rights of the agents, as plain objects. Pure."""

from __future__ import annotations

import platform
from typing import Any

from percale.lab.kubernetes.credentials import AGENT
from percale.lab.own_control_plane import node_object
from percale.lab.spec.topology import Machine
from percale.model.manifest.encode import to_plain
from percale.model.pod import Pod

Plain = dict[str, Any]

KUBELET_PORT = 10250
_ROOM = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "256Gi", "pods": "250"}
"""Of a node: pods have no processes, so that requests cost nothing."""
_API = "rbac.authorization.k8s.io/v1"
ROLES, ROLE_BINDINGS = f"/apis/{_API}/clusterroles", f"/apis/{_API}/clusterrolebindings"
AGENT_RULES: list[Plain] = [
    {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    {"apiGroups": ["policy.networking.k8s.io"], "resources": ["clusternetworkpolicies"], "verbs": ["list", "watch"]},
    {
        "apiGroups": ["crd.projectcalico.org"],
        "resources": ["bgpconfigurations", "bgppeers", "bgpfilters", "ippools", "ipreservations"],
        "verbs": ["list", "watch"],
    },
    {"apiGroups": ["percale.io"], "resources": ["addressblocks"], "verbs": ["list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]
"""All that an agent needs (docs/agent.md), as deploy/ grants it."""


def agent_rights() -> tuple[Plain, Plain]:
    """The agents' role, and its binding to their user."""
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": _API, "kind": "ClusterRole", "metadata": {"name": AGENT}, "rules": AGENT_RULES}
    binding = {
        "apiVersion": _API,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": AGENT},
        "roleRef": {"kind": "ClusterRole", "name": AGENT, "apiGroup": group},
        "subjects": [{"kind": "User", "name": AGENT, "apiGroup": group}],
    }
    return role, binding


def node(machine: Machine, version: str, now: str) -> Plain:
    """As its kubelet registers it; Kubernetes assigns the pod subnets."""
    plain = to_plain(node_object(machine))
    system = platform.uname()
    plain["metadata"]["labels"]["kubernetes.io/arch"] = _architecture(system.machine)
    plain["status"] |= {
        "capacity": _ROOM,
        "allocatable": _ROOM,
        "conditions": [*_no_pressure(now), node_ready(False, now, now)],
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "nodeInfo": {
            "machineID": machine.name,
            "systemUUID": machine.name,
            "bootID": machine.name,
            "kernelVersion": system.release,
            "osImage": "a network namespace",
            "containerRuntimeVersion": "percale://lab",
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": _architecture(system.machine),
        },
    }
    return plain


def _architecture(machine: str) -> str:
    """In Go's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _no_pressure(now: str) -> list[Plain]:
    words = {
        "MemoryPressure": "KubeletHasSufficientMemory",
        "DiskPressure": "KubeletHasNoDiskPressure",
        "PIDPressure": "KubeletHasSufficientPID",
    }
    return [
        {"type": kind, "status": "False", "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now}
        for kind, reason in words.items()
    ]


def node_ready(ready: bool, since: str, now: str) -> Plain:
    """The condition Ready, which is the agent's."""
    return {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "the node's agent is ready" if ready else "the node's agent is not ready",
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    }


def running_status(pod: Pod, machine: Machine, addresses: tuple[str, ...], now: str) -> Plain:
    """All its containers run and are ready."""
    host = [str(machine.address.ip), str(machine.address6.ip)]
    return {
        "phase": "Running",
        "hostIP": host[0],
        "hostIPs": [{"ip": address} for address in host],
        "podIP": addresses[0] if addresses else None,
        "podIPs": [{"ip": address} for address in addresses],
        "startTime": now,
        "conditions": [_condition(kind, True, now) for kind in ("Initialized", "ContainersReady", "Ready")],
        "containerStatuses": [
            {
                **_container(each.name, each.image),
                "ready": True,
                "started": True,
                "containerID": f"percale://{pod.metadata.uid}/{each.name}",
                "state": {"running": {"startedAt": now}},
            }
            for each in pod.spec.containers
        ],
    }


def waiting_status(pod: Pod, reason: str, now: str) -> Plain:
    """The reason is the network's."""
    return {
        "phase": "Pending",
        "startTime": now,
        "conditions": [
            _condition("Initialized", True, now),
            {**_condition("ContainersReady", False, now), "reason": "NetworkNotReady", "message": reason},
            {**_condition("Ready", False, now), "reason": "NetworkNotReady", "message": reason},
        ],
        "containerStatuses": [
            {
                **_container(each.name, each.image),
                "ready": False,
                "started": False,
                "state": {"waiting": {"reason": "ContainerCreating", "message": reason}},
            }
            for each in pod.spec.containers
        ],
    }


def _condition(kind: str, holds: bool, now: str) -> Plain:
    return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": now}


def _container(name: str, image: str | None) -> Plain:
    return {"name": name, "image": image or "", "imageID": "", "restartCount": 0}
