"""`percale trace` in a lab: the way of real packets, where they are lost, and that nothing stays armed."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.e2e.web_and_clients import PODS
from tests.waiting import until

WORLD = (
    PODS
    + """\
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 8080, targetPort: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: access-web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {access: "true"}}}, {ipBlock: {cidr: 203.0.113.0/24}}]}]
"""
)
Hops = list[dict[str, Any]]


@pytest.fixture
def lab(percale: Person) -> Person:
    percale("lab", "up", "-f", "-", stdin=WORLD)
    until(lambda: percale.probe("stranger", "web", "80") == "timeout")
    return percale


def trace(person: Person, *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(person.out("trace", *arguments, "-o", "json", code=code))
    assert found["differences"] == []
    return found


def devices(hops: Hops, direction: str) -> list[tuple[str, str, str]]:
    return [
        (hop["place"], hop["device"][:3], hop["way"])
        for hop in hops
        if hop["hop"] == "device" and hop["direction"] == direction
    ]


def of_kind(hops: Hops, kind: str, **fields: str) -> Hops:
    return [hop for hop in hops if hop["hop"] == kind and all(hop[name] == value for name, value in fields.items())]


def test_the_way_over_two_nodes_through_a_service_and_back(lab: Person) -> None:
    found = trace(lab, "friend", "svc/web", "8080")
    hops = found["hops"]
    assert (found["outcome"], found["from"], found["to"]) == ("answered", "default/friend", "svc/default/web")
    there = [
        ("default/friend", "eth", "out"),
        ("node2", "pcl", "in"),
        ("node2", "fla", "out"),
        ("node2", "eth", "out"),
        ("router", "nod", "in"),
        ("router", "nod", "out"),
        ("node1", "eth", "in"),
        ("node1", "fla", "in"),
        ("node1", "pcl", "out"),
        ("default/web", "eth", "in"),
    ]
    assert devices(hops, "request") == there
    back = [(place, device, "in" if way == "out" else "out") for place, device, way in reversed(there)]
    assert devices(hops, "reply") == back
    times = [hop["us"] for hop in hops if hop["us"] is not None]
    assert times == sorted(times)
    (translated,) = of_kind(hops, "nat", direction="request")
    assert (translated["place"], translated["what"], translated["service"]) == ("node2", "dnat", "svc/default/web:8080")
    (restored,) = of_kind(hops, "nat", direction="reply")
    assert (restored["before"], restored["after"]) == (translated["after"], translated["before"])
    (allowed,) = of_kind(hops, "rule", stage="ingress")
    assert (allowed["place"], allowed["rule"]) == ("node1", "np:default/access-web#ingress[0]")
    tunnel = next(hop for hop in of_kind(hops, "route", place="node2") if hop["device"] == "flannel.1")
    assert (tunnel["table"], tunnel["neighbour"]["state"]) == ("main", "PERMANENT")
    outer = next(hop for hop in hops if hop.get("outer"))
    assert outer["outer"]["destination"].startswith(f"{tunnel['forwarding']['remote']}:8472")

    said = lab.out("trace", "friend", "svc/web", "8080")
    assert said.startswith("answered: default/friend → svc/default/web, 10.96.")
    assert "ingress         allowed: np:default/access-web#ingress[0]" in said


def test_what_is_dropped_refused_or_not_there_is_told_with_what_to_type(lab: Person) -> None:
    denied = trace(lab, "stranger", "web", "80", code=1)
    assert (denied["outcome"], denied["place"]) == ("dropped", "node1")
    assert "np:default/access-web" in denied["what"]
    assert denied["commands"] == ["percale why default/stranger default/web 80/tcp"]
    assert "denied" in lab.out("why", "default/stranger", "default/web", "80/tcp", code=1)

    empty = trace(lab, "friend", "svc/empty", "80", code=1)
    assert (empty["outcome"], empty["place"]) == ("refused", "node2")
    assert "no ready endpoint" in empty["what"]

    closed = trace(lab, "friend", "stranger", "81", code=1)
    assert (closed["outcome"], closed["what"].partition(" ")[2]) == ("refused", "answers RST: no socket listens there")

    lab("lab", "cut", "node1", "node2")
    cut = trace(lab, "friend", "web", "80", "--timeout", "0.5", code=1)
    assert (cut["outcome"], cut["what"]) == ("lost", "the lab's cable between node1 and node2 is cut")
    (mend,) = cut["commands"]
    lab.shell(mend)
    assert trace(lab, "friend", "web", "80")["outcome"] == "answered"


def test_node_ports_outside_hosts_udp_and_icmp(lab: Person) -> None:
    entered = trace(lab, "external/outside", "node/node2", "30080", code=1)
    assert (entered["outcome"], entered["place"]) == ("dropped", "node1"), "it comes as node2"
    translated = of_kind(entered["hops"], "nat", direction="request")
    assert [(hop["place"], hop["what"]) for hop in translated] == [("node2", "dnat"), ("node2", "snat")]

    outside = trace(lab, "friend", "external/outside", "icmp")
    (masked,) = of_kind(outside["hops"], "nat", direction="request")
    assert (masked["place"], masked["what"]) == ("node2", "snat")
    (unmasked,) = of_kind(outside["hops"], "nat", direction="reply")
    assert (unmasked["before"], unmasked["after"]) == (masked["after"], masked["before"])

    names = trace(lab, "friend", "svc/kube-system/kube-dns", "53/udp")
    assert {hop["what"] for hop in of_kind(names["hops"], "nat")} == {"dnat"}
    refused = trace(lab, "friend", "external/outside", "9/udp", code=1)
    assert (refused["outcome"], "port unreachable" in refused["what"]) == ("refused", True)
    assert devices(refused["hops"], "error")[-1] == ("default/friend", "eth", "in")


def test_services_by_ipv6_and_at_a_load_balancer(percale: Person) -> None:
    without_policy = WORLD.rpartition("---\n")[0]
    dual = without_policy.replace("type: NodePort,", "type: LoadBalancer, ipFamilyPolicy: PreferDualStack,")
    percale("lab", "up", "-f", "examples/lab/dual-stack.yaml", "-f", "-", stdin=dual)
    until(lambda: percale.probe("friend", "svc/web", "8080", "-6") == "allowed")
    (service,) = [each for each in percale.objects("services") if each["metadata"]["name"] == "web"]
    entries = [each["ip"] for each in service["status"]["loadBalancer"]["ingress"]]
    assert [":" in each for each in entries] == [False, True]
    for target in (("svc/web", "8080", "-6"), *((address, "8080") for address in entries)):
        found = trace(percale, "friend", *target)
        (translated,) = of_kind(found["hops"], "nat", direction="request", what="dnat")
        assert (found["to"], translated["service"]) == ("svc/default/web", "svc/default/web:8080")
        (restored,) = of_kind(found["hops"], "nat", direction="reply", what="dnat")
        assert (restored["before"], restored["after"]) == (translated["after"], translated["before"])


def test_wrong_questions_are_told_in_a_line(lab: Person) -> None:
    assert "there is no pod default/nobody" in lab.complaint("trace", "nobody", "web", "80")
    assert "has no port" in lab.complaint("trace", "friend", "web")
    assert "TCP, UDP or ICMP" in lab.complaint("trace", "friend", "web", "80/sctp")
    assert "198.51.100.1 is not in this lab" in lab.complaint("trace", "198.51.100.1", "web", "80")


def test_a_killed_trace_leaves_nothing_armed(lab: Person) -> None:
    lab("lab", "exec", "stranger", "--", "ip", "link", "set", "eth0", "down")
    command = [str(PERCALE), "trace", "web", "stranger", "80", "--timeout", "60"]
    process = subprocess.Popen(command, cwd=ROOT, env=lab.environment, stdout=subprocess.DEVNULL)
    try:
        until(lambda: "percale_trace_" in lab.out("lab", "node", "node1", "--", "nft", "list", "tables"))
        assert "percale_trace_" in lab.out("lab", "node", "node2", "--", "nft", "list", "tables")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for node in ("node1", "node2"):
        assert "percale_trace_" not in lab.out("lab", "node", node, "--", "nft", "list", "tables")
        assert lab.out("lab", "node", node, "--", "cat", "/proc/net/packet").count("\n") == 1
