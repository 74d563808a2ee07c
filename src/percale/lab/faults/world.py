"""What is played with: clients and servers on three nodes, a Service, a policy. All in the namespace `game`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from percale.lab.api.status import LabStatus

NAMESPACE = "game"
NODES = ("node1", "node2", "node3")
"""The default lab's: the first two on one segment, the third behind the router."""

_POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: game, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  containers: [{{name: main, image: nginx, ports: [{{containerPort: 80}}]}}]
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: game}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: game}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
      ports: [{port: 80}]
"""
_NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: game}\n"


def manifest() -> str:
    """All objects."""
    pods = [
        _POD.format(name=f"{app}{number}", app=app, node=node)
        for number, node in enumerate(NODES, start=1)
        for app in ("client", "web")
    ]
    return "---\n".join((_NAMESPACE, *pods, SERVICE, POLICY))


def names(status: LabStatus, pods: Mapping[str, str]) -> dict[str, str]:
    """What stands in lines and hints, by what it stands for; `pods` are addresses by name."""
    found = {f"ADDRESS-OF-{name}": address for name, address in pods.items()}
    for machine in status.machines:
        found[f"ADDRESS-OF-{machine.name}"] = machine.address
        if machine.subnets:
            found[f"HALF-OF-{machine.name}"] = str(next(ip_network(machine.subnets[0]).subnets()))
    return found
