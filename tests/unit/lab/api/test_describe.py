"""Pages of `describe`, as kubectl's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import convert
from msgspec.structs import replace
from tests import builders

from percale.lab.api.describe import Neighbourhood, describe
from percale.lab.machines.agent_state import AgentState
from percale.model.event import Event
from percale.model.meta import Object
from percale.model.workloads import Deployment

POD = builders.pod(
    "web-1",
    "10.0.0.2",
    labels={"app": "web"},
    owner="ReplicaSet/web",
    ready=True,
    containers=[{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "hostPort": 8080}]}],
)
SERVICE = builders.service("web", clusterIP="10.96.0.1", ports=[{"name": "http", "port": 80}])
POLICY = builders.policy(
    "web",
    podSelector={"matchLabels": {"app": "web"}},
    ingress=[
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}]},
        {"ports": [{"port": 80, "endPort": 90}]},
    ],
)
EVENT: Any = {
    "metadata": {"name": "web-1.x", "namespace": "default"},
    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web-1"},
    "reason": "Failed",
    "message": "no address is free",
    "type": "Warning",
    "source": {"component": "percale", "host": "n1"},
    "count": 2,
}
AROUND = Neighbourhood(
    pods=[POD, builders.pod("other", namespace="elsewhere", labels={"app": "web"})],
    policies=[POLICY, builders.policy("db", podSelector={"matchLabels": {"app": "db"}})],
    slices=[builders.endpoint_slice("web", "10.0.0.2", ports=[{"name": "http", "port": 80}])],
    leases=[builders.lease(1, node="n1")],
    nodes={"n1": builders.node("n1")},
    agents={"n1": AgentState(ready=True, pid=7, restarts=3)},
    events=[convert(EVENT, Event)],
    now=datetime(2026, 1, 1, tzinfo=UTC),
)


def words(obj: Object) -> list[str]:
    """The page's lines with single blanks."""
    return [" ".join(line.split()) for line in describe(obj, AROUND)]


def test_a_pod_with_its_policies_and_events() -> None:
    page = words(POD)
    for line in (
        *("Name: web-1", "Namespace: default", "Labels: app=web", "Annotations: <none>", "Status: Running"),
        *("IPs: 10.0.0.2", "Controlled By: ReplicaSet/web", "Network Policies: web", "Host Ports: 8080/TCP"),
    ):
        assert line in page
    assert page[-2:] == ["Type Reason Count From Message", "Warning Failed x2 percale, n1 no address is free"]
    waiting = replace(POD, status=replace(POD.status, conditions=()))
    assert "Status: ContainerCreating" in words(waiting)


def test_a_service_with_its_endpoints() -> None:
    page = words(SERVICE)
    for line in ("IP: 10.96.0.1", "Port: http 80/TCP", "TargetPort: 80/TCP", "Session Affinity: None"):
        assert line in page
    assert [line for line in page if line.startswith("Endpoints: 10.0.0.2:80")]
    assert "Endpoints: <none>" in words(builders.service("nobody"))
    assert page[-1] == "Events: <none>"


def test_a_node_with_its_agent_and_pods() -> None:
    page = words(AROUND.nodes["n1"])
    assert "Agent: ready, pid 7, 3 restarts" in page
    assert "PodCIDRs: 10.244.1.0/24" in page
    assert "Non-terminated Pods: (2 in total)" in page


def test_a_policy_in_kubectls_words() -> None:
    page = list(describe(POLICY, AROUND))
    start = page.index("Spec:")
    assert page[start:] == [
        "Spec:",
        "  PodSelector:     app=web",
        "  Allowing ingress traffic:",
        "    To Port: <any> (traffic allowed to all ports)",
        "    From:",
        "      IPBlock:",
        "        CIDR: 10.0.0.0/8",
        "        Except: 10.1.0.0/16",
        "    From:",
        "      PodSelector: <none>",
        "    ----------",
        "    To Port: 80-90/TCP",
        "    From: <any> (traffic not restricted by source)",
        "  Not affecting egress traffic",
        "  Policy Types: Ingress",
        "Selected Pods:   web-1",
        "Events:  <none>",
    ]
    deny = "\n".join(describe(builders.policy("deny", policyTypes=["Ingress", "Egress"]), AROUND))
    assert "PodSelector:     <none> (Allowing the specific traffic to all pods in this namespace)" in deny
    assert "<none> (Selected pods are isolated for egress connectivity)" in deny


def test_other_kinds_as_yaml() -> None:
    template = {"spec": {"containers": [{"name": "c"}]}}
    plain = {"metadata": {"name": "web"}, "spec": {"selector": {}, "template": template, "replicas": 2}}
    page = words(convert(plain, Deployment))
    assert "Kind: Deployment" in page
    assert "replicas: 2" in page
