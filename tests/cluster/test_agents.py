"""Two agents on a real API server, with no more rights than they need."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from tests.cluster.api_server import AGENT
from tests.cluster.kubernetes_cluster import RIGHTS, KubernetesCluster
from tests.kernel.agent.cluster import Node
from tests.waiting import until

DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "default"},
    "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]},
}


def annotations_of(kubernetes: KubernetesCluster, name: str) -> dict[str, str]:
    found: dict[str, str] = kubernetes.get("node", name)["metadata"].get("annotations", {})
    prefix = "flannel.alpha.coreos.com/"
    return {key.removeprefix(prefix): text for key, text in found.items() if key.startswith(prefix)}


def conditions(kubernetes: KubernetesCluster, name: str) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in kubernetes.get("node", name)["status"]["conditions"]}


def problems(node: Node) -> str:
    status = node.ask()
    return " | ".join(f"{each.source}: {each.error}" for each in status.problems) if status is not None else ""


def test_pods_of_two_nodes_reach_each_other_and_policies_apply(kubernetes: KubernetesCluster) -> None:
    one, two = kubernetes.node(1).start(), kubernetes.node(2).start()
    assert one.subnet == "10.244.1.0/24"
    written = annotations_of(kubernetes, "n1")
    assert written.pop("backend-data").startswith('{"VNI":1,"VtepMAC":"')
    assert written == {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "192.168.0.1"}
    available = until(lambda: conditions(kubernetes, "n1").get("NetworkUnavailable"))
    assert (available["status"], available["reason"]) == ("False", "FlannelIsUp")
    assert conditions(kubernetes, "n1")["Ready"]["lastHeartbeatTime"] == "2026-01-01T00:00:00Z"

    a, b = kubernetes.pod(one, "a"), kubernetes.pod(two, "b")
    until(lambda: a.reaches(b.addresses[0]), "pods reach each other")
    kubernetes.apply(DENY)
    until(lambda: not a.reaches(b.addresses[0]), "the policy is enforced")
    kubernetes.server.kubectl("delete", "networkpolicy", "deny")
    until(lambda: a.reaches(b.addresses[0]), "the policy is gone")
    assert problems(one) == problems(two) == ""


def test_an_api_server_that_goes_and_comes_back_disturbs_nothing(kubernetes: KubernetesCluster) -> None:
    one, two = kubernetes.node(1).start(), kubernetes.node(2).start()
    a, b = kubernetes.pod(one, "a"), kubernetes.pod(two, "b")
    until(lambda: a.reaches(b.addresses[0]))
    kubernetes.bind(one, "during")
    with a.pinging(b.addresses[0]) as counts:
        kubernetes.server.stop()
        until(lambda: "192.168.0.254:6443" in problems(one), "the problem is told")
        until(lambda: one.status.ready, "and the node stays ready")
        annotations = {"io.kubernetes.cri.pod-annotations": {"percale.io/ips": "10.244.1.77"}}
        assert one.pod("during", **annotations).addresses == ("10.244.1.77",)  # an ADD needs no API server
        kubernetes.server.start()
        until(lambda: problems(one) == problems(two) == "", "the problem is over")
        kubernetes.apply(DENY)
        kubernetes.server.kubectl("delete", "networkpolicy", "deny")
    sent, answered = counts()
    assert answered > 0.8 * sent  # the policy was in force for a moment
    kubernetes.apply(DENY)
    until(lambda: not a.reaches(b.addresses[0]), "changes arrive again")


def test_an_agent_that_starts_while_the_api_server_is_away_comes_up_from_its_last_state(
    kubernetes: KubernetesCluster,
) -> None:
    one, two = kubernetes.node(1).start(), kubernetes.node(2).start()
    a, b, closed = kubernetes.pod(one, "a"), kubernetes.pod(two, "b"), kubernetes.pod(one, "closed")
    policy = {"podSelector": {"matchLabels": {"app": "closed"}}, "policyTypes": ["Ingress"]}
    kubernetes.apply({**DENY, "metadata": {"name": "closed", "namespace": "default"}, "spec": policy})
    until(lambda: a.reaches(b.addresses[0]) and not b.reaches(closed.addresses[0]))
    routes = one.ip("route")
    with a.pinging(b.addresses[0]) as counts:
        one.stop(signal.SIGKILL)
        kubernetes.server.stop()
        one.sh("ip", "route", "del", "10.244.2.0/24")  # what the last agent did not see
        one.start()
        assert "store last state: " in problems(one)
        assert one.ip("route") == routes
        assert not b.reaches(closed.addresses[0])
        kubernetes.server.start()
        until(lambda: problems(one) == problems(two) == "", "the problem is over")
    sent, answered = counts()
    assert answered > 0.5 * sent  # without the route, until the agent came
    assert "peer left" not in one.log
    kubernetes.server.kubectl("delete", "networkpolicy", "closed")
    until(lambda: b.reaches(closed.addresses[0]), "changes arrive again")


def test_an_agent_that_restarts_finds_its_lease(kubernetes: KubernetesCluster) -> None:
    node = kubernetes.node(1).start()
    before = kubernetes.get("node", "n1")["metadata"]
    node.stop()
    node.start()
    after = kubernetes.get("node", "n1")["metadata"]
    assert before["resourceVersion"] == after["resourceVersion"]


def test_without_a_pod_cidr_the_agent_waits_and_says_so(kubernetes: KubernetesCluster) -> None:
    node = kubernetes.node(1, assigned=False).launch()
    until(lambda: "Node n1 has no podCIDR; run kube-controller-manager with" in problems(node))
    kubernetes.server.kubectl(
        "patch", "node", "n1", "-p", '{"spec":{"podCIDR":"10.244.7.0/24","podCIDRs":["10.244.7.0/24"]}}'
    )
    node.wait_ready()
    assert node.subnet == "10.244.7.0/24"


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        (
            "networkpolicies",
            "user percale may not list networkpolicies;"
            " give its role the verb list on networkpolicies of networking.k8s.io",
        ),
        ("nodes/status", "user percale may not patch nodes/status; give its role the verb patch on nodes/status"),
    ],
)
def test_a_right_that_is_missing_is_named_and_noticed_when_it_is_given(
    kubernetes: KubernetesCluster, resource: str, said: str
) -> None:
    kubernetes.allow(*(each for each in RIGHTS if each["resources"] != [resource]))
    node = kubernetes.node(1).launch()
    until(lambda: said in problems(node), said)
    kubernetes.allow(*RIGHTS)
    node.wait_ready()
    until(lambda: problems(node) == "")


def test_cleanup_gives_the_lease_back(kubernetes: KubernetesCluster) -> None:
    node = kubernetes.node(1).start()
    node.stop()
    done = node.percale("agent", "--cleanup", "--config", str(node.write_config()))
    assert "gave back 10.244.1.0-24" in done.stdout, done.stdout + done.stderr
    assert annotations_of(kubernetes, "n1") == {}


def test_a_node_that_is_registered_again_gets_its_lease_again(kubernetes: KubernetesCluster) -> None:
    node = kubernetes.node(1).start()
    kubernetes.server.kubectl("delete", "node", "n1")
    until(lambda: "there is no Node n1" in problems(node))
    kubernetes.register(1, "10.244.1.0/24")
    until(lambda: annotations_of(kubernetes, "n1").get("public-ip") == "192.168.0.1")
    until(lambda: conditions(kubernetes, "n1").get("NetworkUnavailable"))
    until(lambda: problems(node) == "")


def test_another_pod_cidr_ends_the_agent_and_the_next_one_has_it(kubernetes: KubernetesCluster) -> None:
    node = kubernetes.node(1).start()
    kubernetes.server.kubectl("delete", "node", "n1")
    kubernetes.register(1, "10.244.9.0/24")
    assert node.process is not None
    assert node.process.wait(timeout=30) != 0
    assert "node n1: the podCIDR is 10.244.9.0/24 now, not 10.244.1.0/24; restart the agent" in node.log
    assert node.start().subnet == "10.244.9.0/24"


def test_what_a_service_says_wrongly_becomes_an_event(kubernetes: KubernetesCluster) -> None:
    kubernetes.node(1).start()
    metadata = {"name": "odd", "namespace": "default", "annotations": {"percale.io/strategy": "fastest"}}
    spec = {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}
    kubernetes.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})

    def events() -> list[dict[str, Any]]:
        found = kubernetes.get("events", "--field-selector=involvedObject.name=odd")["items"]
        return [each for each in found if each["source"].get("component") == "percale"]

    (event,) = until(events)
    assert (event["type"], event["involvedObject"]["kind"], event["source"]["host"]) == ("Warning", "Service", "n1")


def test_a_subnet_without_a_free_address_is_an_event_of_the_node(kubernetes: KubernetesCluster) -> None:
    kubernetes.register(1, "10.244.1.0/29")
    node = kubernetes.cluster.node(1, store=f"kubernetes:{kubernetes.server.kubeconfig('agent', AGENT)}").start()
    for number in range(5):
        kubernetes.pod(node, f"p{number}")
    kubernetes.bind(node, "late")
    with pytest.raises(AssertionError, match="is full"):
        node.pod("late")

    def events() -> list[dict[str, Any]]:
        found = kubernetes.get("events", "--field-selector=reason=SubnetFull")["items"]
        return [each for each in found if each["involvedObject"] == {"kind": "Node", "name": "n1"}]

    (event,) = until(events)
    assert "all 5 addresses of 10.244.1.0/29 are used" in event["message"]


def test_a_second_machine_with_a_nodes_name_is_refused_and_changes_nothing(kubernetes: KubernetesCluster) -> None:
    one = kubernetes.node(1).start()
    before = annotations_of(kubernetes, "n1")
    second = kubernetes.node(2, node="n1").launch()
    assert second.process is not None
    assert second.process.wait(timeout=15) == 2
    line = second.log.splitlines()[-1]
    assert line.startswith("percale: node n1: another machine (192.168.0.1) has this name and holds 10.244.1.0/24; ")
    assert annotations_of(kubernetes, "n1") == before
    assert one.status.ready and problems(one) == ""
