"""`percale why FROM svc/…`: the verdict on each endpoint that may be chosen, and whom its node sees."""

from __future__ import annotations

import pytest
from msgspec import to_builtins
from msgspec.structs import replace
from tests.unit.explain.why.conftest import NOWHERE

from percale.errors import BadInput
from percale.explain.service_world import MasqueradeAddress
from percale.explain.why.document import service_document
from percale.explain.why.targets import TargetLookup
from percale.explain.why.through_service import Cluster, ServiceReply, find_service_port, service_reply, to_text
from percale.model.addresses import packed, parse_network
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.service import Service
from percale.policy.evaluator import Evaluator
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver


def pod(name: str, ip: str, node: str, labels: str = "") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: x, labels: {{{labels}}}}}
spec: {{nodeName: {node}, containers: [{{name: c}}]}}
status: {{phase: Running, podIPs: [{{ip: {ip}}}]}}
---"""


def policy(spec: str) -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p, namespace: x}}
spec: {spec}
---"""


def service(spec: str, status: str = "{}") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: x}}
spec: {spec}
status: {status}
---"""


CLUSTER_IP = service("{clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}")
NODE_PORT = service("{type: NodePort, clusterIP: 10.96.0.1, ports: [{name: http, port: 80, nodePort: 30080}]}")
LOCAL = service(
    "{type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.1, "
    "ports: [{name: http, port: 80, nodePort: 30080}]}",
    "{loadBalancer: {ingress: [{ip: 198.51.100.1}]}}",
)
REST = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.1.2], nodeName: n1}, {addresses: [10.0.2.2], nodeName: n2}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---""" + (
    pod("web-1", "10.0.1.2", "n1", "app: web")
    + pod("web-2", "10.0.2.2", "n2", "app: web, strict: 'yes'")
    + pod("client", "10.0.1.3", "n1", "app: client")
)
STRICT = "{podSelector: {matchLabels: {strict: 'yes'}}, ingress: [{from: [%s]}]}"
FROM_OUTSIDE = policy(STRICT % "{ipBlock: {cidr: 203.0.113.0/24}}")
FROM_N1 = policy(STRICT % "{ipBlock: {cidr: 192.168.0.1/32}}")


def ask(text: str, source: str, port: str = "http", *, masquerade_all: bool = False, tunnel: str = "") -> ServiceReply:
    objects: tuple[Object, ...] = decode_manifest((text + REST).encode(), "t.yaml").objects
    config = ServiceConfig("", pod_cidrs=(parse_network("10.0.0.0/16"),), masquerade_all=masquerade_all)
    nodes = sorted(each.metadata.name for each in objects if isinstance(each, Node))

    def masquerade_addresses(node: str) -> list[MasqueradeAddress]:
        found = [MasqueradeAddress(packed(f"192.168.0.{node.removeprefix('n')}"), node)] if node else []
        return [*found, MasqueradeAddress(packed(tunnel), node, is_tunnel=True)] if tunnel else found

    evaluator = Evaluator(objects)
    cluster = Cluster(
        TargetLookup(evaluator),
        lambda node: ServiceResolver(replace(config, node=node), objects),
        nodes,
        masquerade_addresses,
    )
    wanted = next(each for each in objects if isinstance(each, Service))
    return service_reply(cluster, cluster.lookup.find(source), wanted, find_service_port(wanted, port, "ask a pod"))


def verdicts(reply: ServiceReply) -> dict[str, str]:
    """`NODES POD` → the word, and whom the endpoint's node sees if not FROM."""
    return {
        f"{','.join(way.nodes)} {each.reply.destination.name}": " as ".join(
            filter(None, (each.reply.word, each.seen_as))
        )
        for way in reply.paths
        for each in way.endpoints
    }


def test_a_pod_at_the_cluster_ip_keeps_its_source() -> None:
    reply = ask(CLUSTER_IP, "x/client")
    assert (reply.word, verdicts(reply)) == ("allowed", {"n1 x/web-1": "allowed", "n1 x/web-2": "allowed"})
    reply = ask(policy("{podSelector: {matchLabels: {app: web}}}") + CLUSTER_IP, "x/client")
    assert (reply.word, verdicts(reply)) == ("denied", {"n1 x/web-1": "denied", "n1 x/web-2": "denied"})
    reply = ask(FROM_OUTSIDE + CLUSTER_IP, "x/client")
    assert (reply.word, verdicts(reply)) == ("in part", {"n1 x/web-1": "allowed", "n1 x/web-2": "denied"})


def test_the_port_is_the_endpoints() -> None:
    only = policy("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}]}]}")
    assert ask(only + CLUSTER_IP, "x/client").word == "allowed"
    assert ask(only.replace("8080", "80") + CLUSTER_IP, "x/client").word == "denied"


def test_a_policy_on_another_node_sees_the_node_that_masquerades() -> None:
    assert ask(FROM_N1 + CLUSTER_IP, "x/client").word == "in part"
    reply = ask(FROM_N1 + CLUSTER_IP, "x/client", masquerade_all=True)
    assert (reply.word, verdicts(reply)) == (
        "allowed",
        {"n1 x/web-1": "allowed", "n1 x/web-2": "allowed as node/n1 (192.168.0.1)"},
    )


def test_egress_is_judged_before_the_source_is_replaced() -> None:
    closed = policy("{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}")
    assert set(verdicts(ask(closed + CLUSTER_IP, "x/client", masquerade_all=True)).values()) == {
        "denied",
        "denied as node/n1 (192.168.0.1)",
    }


def test_what_depends_on_a_tunnel_is_not_told() -> None:
    reply = ask(FROM_N1 + CLUSTER_IP, "x/client", masquerade_all=True, tunnel="10.0.1.0")
    assert (reply.word, verdicts(reply)["n1 x/web-2"]) == (
        "unknown",
        "unknown as node/n1 (192.168.0.1) or 10.0.1.0, the tunnel's end on n1",
    )
    assert ask(CLUSTER_IP, "x/client", masquerade_all=True, tunnel="10.0.1.0").word == "allowed"


def test_from_outside_by_node_ports_every_node_is_a_way_in() -> None:
    reply = ask(FROM_OUTSIDE + NODE_PORT, "203.0.113.9")
    assert verdicts(reply) == {
        "n1 x/web-1": "allowed",
        "n1 x/web-2": "denied as node/n1 (192.168.0.1)",
        "n2 x/web-1": "allowed as node/n2 (192.168.0.2)",
        "n2 x/web-2": "allowed",
    }
    assert [way.address for way in reply.paths] == ["192.168.0.1:30080/TCP", "192.168.0.2:30080/TCP"]
    assert next(to_text(reply, NOWHERE)) == "in part: it depends on the node: 203.0.113.9 → svc/x/web:http"


def test_from_outside_with_traffic_policy_local_the_source_is_kept() -> None:
    reply = ask(FROM_OUTSIDE + LOCAL, "203.0.113.9")
    assert (reply.word, verdicts(reply)) == ("allowed", {"n1 x/web-1": "allowed", "n2 x/web-2": "allowed"})
    assert {way.address for way in reply.paths} == {"198.51.100.1:80/TCP"}


def test_what_happens_on_all_nodes_is_said_once() -> None:
    reply = ask(LOCAL.replace("externalTrafficPolicy: Local, ", ""), "203.0.113.9")
    assert len(reply.paths) == 2  # the source that a pod sees differs
    nobody = ask(CLUSTER_IP.replace("web,", "other,"), "203.0.113.9")
    assert [way.nodes for way in nobody.paths] == [("n1", "n2")]


def test_a_pod_that_is_its_own_endpoint_reaches_itself() -> None:
    closed = policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    assert verdicts(ask(closed + CLUSTER_IP, "x/web-1")) == {"n1 x/web-1": "allowed", "n1 x/web-2": "denied"}


def test_nobody_to_choose_is_denied_and_says_what_happens() -> None:
    lines = list(to_text(ask(CLUSTER_IP.replace("web,", "other,"), "x/client"), NOWHERE))
    assert lines == [
        "denied: x/client → svc/x/other:http",
        "  10.96.0.1:80/TCP by n1: cluster IP of x/other:http from a pod: no endpoint is ready",
        "    refused",
    ]


def test_without_a_common_family_nobody_can_tell() -> None:
    reply = ask(CLUSTER_IP, "fd00::9")
    assert (reply.word, reply.paths) == ("unknown", ())
    assert list(to_text(reply, NOWHERE))[1] == "  they have no address family in common"


def test_text_and_json() -> None:
    reply = ask(FROM_OUTSIDE + CLUSTER_IP, "x/client")
    lines = list(to_text(reply, NOWHERE))
    assert lines[:3] == [
        "in part: 1 of 2 endpoints allowed: x/client → svc/x/web:http",
        "  10.96.0.1:80/TCP by n1: cluster IP of x/web:http from a pod: one of 2 endpoints, source kept",
        "    allowed: x/client (10.0.1.3) → x/web-1 (10.0.1.2), 8080/TCP",
    ]
    assert "      ingress  denied: isolated by np:x/p, and no rule allows it" in lines
    found = to_builtins(service_document(reply, NOWHERE))
    assert (found["to"], found["port"], found["verdict"]) == ("svc/x/web", 80, "in part")
    assert [each["verdict"] for each in found["ways"][0]["endpoints"]] == ["allowed", "denied"]
    assert found["ways"][0]["endpoints"][1]["seenAs"] is None


@pytest.mark.parametrize(("text", "number"), [("80", 80), ("http", 80), ("53/udp", 53), ("dns/UDP", 53)])
def test_ports_of_a_service(text: str, number: int) -> None:
    wanted = decode_manifest(CLUSTER_IP.encode(), "t.yaml").objects[0]
    assert isinstance(wanted, Service)
    assert find_service_port(wanted, text, "ask a pod").port == number


def test_ports_that_are_not_there() -> None:
    wanted = decode_manifest(CLUSTER_IP.encode(), "t.yaml").objects[0]
    assert isinstance(wanted, Service)
    for text in ("8080", "80/udp", "https", ""):
        with pytest.raises(BadInput) as caught:
            find_service_port(wanted, text, "ask a pod")
        assert str(caught.value) == f"Service x/web has no port {text}; it has http = 80/TCP, dns = 53/UDP"


def test_a_headless_service_has_no_choice_to_look_into() -> None:
    wanted = decode_manifest(service("{clusterIP: None, ports: [{port: 80}]}").encode(), "t.yaml").objects[0]
    assert isinstance(wanted, Service)
    with pytest.raises(BadInput, match=r"headless.*ask a pod"):
        find_service_port(wanted, "80", "ask a pod")
