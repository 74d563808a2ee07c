"""`percale service resolve`: one question, many in a batch, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.e2e.conftest import Person

CLUSTER = """
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: n1}
  spec: {podCIDRs: [10.180.2.0/24]}
  status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: 192.168.1.2}]}
- apiVersion: v1
  kind: Node
  metadata: {name: n2}
  spec: {podCIDRs: [10.180.0.0/24]}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: ns1}
  spec:
    type: LoadBalancer
    externalTrafficPolicy: Local
    clusterIP: 172.30.0.41
    clusterIPs: [172.30.0.41, "fd00:172::41"]
    ports: [{name: http, port: 80, nodePort: 30001}]
  status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: ns1, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  endpoints: [{addresses: [10.180.2.1], nodeName: n1}, {addresses: [10.180.0.1]}]
  ports: [{name: http, port: 8080, protocol: TCP}]
"""

PLAIN = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.3, podIPs: [{ip: 10.244.1.3}]}
"""


@pytest.fixture
def resolve(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER)
    return ("service", "resolve", "--node", "n1", "-f", str(file), "--service-cidr", "172.30.0.0/16,fd00:172::/112")


def test_one_question(percale: Person, resolve: tuple[str, ...]) -> None:
    assert percale.out(*resolve, "10.180.0.9", "172.30.0.41:80").splitlines() == [
        "cluster IP of ns1/web:http from a pod: one of 2 endpoints, source kept",
        "  10.180.0.1:8080",
        "  10.180.2.1:8080",
    ]
    assert percale.out(*resolve, "203.0.113.2", "172.30.0.41:81/UDP").splitlines()[1] == "  reject"
    assert json.loads(percale.out(*resolve, "-o", "json", "203.0.113.2", "1.2.3.4:80")) == {
        "action": "endpoints",
        "endpoints": ["10.180.2.1:8080"],
        "masquerade": False,
        "reason": "load balancer address of ns1/web:http from outside: one endpoint, source kept",
    }


@pytest.mark.parametrize(
    ("source", "target", "first"),
    [
        ("node/n1", "svc/ns1/web:http", "cluster IP of ns1/web:http from this node: one of 2 endpoints, masqueraded"),
        ("203.0.113.2", "192.168.0.2:30001/tcp", "node port of ns1/web:http from outside: one endpoint, source kept"),
        ("203.0.113.2", "192.168.1.2:30001", "no Service is at 192.168.1.2:30001/TCP"),
        ("fd00::9", "[fd00:172::41]:80", "cluster IP of ns1/web:http from outside: no endpoint is ready"),
        ("fd00::9", "svc/ns1/web:80", "cluster IP of ns1/web:http from outside: no endpoint is ready"),
        ("10.180.0.9", "172.30.9.9:80", "172.30.9.9 is in the service network, but no Service has it"),
    ],
)
def test_forms_of_from_and_to(percale: Person, resolve: tuple[str, ...], source: str, target: str, first: str) -> None:
    assert percale.out(*resolve, source, target).splitlines()[0] == first


def test_options(percale: Person, resolve: tuple[str, ...]) -> None:
    def asked(*arguments: str) -> dict[str, object]:
        answer: dict[str, object] = json.loads(percale.out(*resolve, "-o", "json", *arguments))
        return answer

    assert asked("--masquerade-all", "10.180.0.9", "172.30.0.41:80")["masquerade"] is True
    assert asked("--pod-cidr", "10.9.0.0/16", "10.180.0.9", "172.30.0.41:80")["masquerade"] is True
    assert asked("--pod-cidr", "10.9.0.0/16", "10.9.0.9", "172.30.0.41:80")["masquerade"] is False
    for source in ("203.0.113.2", "10.180.0.9", "192.168.0.2"):
        kept = asked("--pod-cidr", "", source, "172.30.0.41:80")
        assert kept["masquerade"] is False
        assert str(kept["reason"]).endswith("source kept, since no pod network is known")
    assert asked("--pod-cidr", "", "192.168.0.2", "192.168.0.2:30001")["masquerade"] is True
    assert asked("--pod-cidr", "", "--masquerade-all", "10.180.0.9", "172.30.0.41:80")["masquerade"] is True
    second = ("203.0.113.2", "192.168.1.2:30001")
    assert asked("--node-port-addresses", "192.168.0.0/24,192.168.1.0/24", *second)["action"] == "endpoints"
    assert asked("--node-port-addresses", "primary", *second)["action"] == "none"


def test_a_batch(percale: Person, resolve: tuple[str, ...], tmp_path: Path) -> None:
    lines = [
        '{"from": "10.180.0.9", "to": "172.30.0.41", "port": 80, "protocol": "TCP"}',
        "",
        '{"from": "10.180.0.9", "to": "172.30.0.41", "port": 81}',
        "{",
        '{"from": "10.180.0.9", "to": "172.30.0.41"}',
        '{"from": "10.180.0.9", "to": "172.30.0.41", "port": true}',
        '{"from": "10.180.0.9", "to": "nowhere", "port": 1}',
        '{"from": "10.180.0.9", "to": "172.30.0.41", "port": 80, "protocol": "ICMP"}',
        '{"from": "203.0.113.2", "to": "fd00:172::41", "port": 80}',
        '{"from": "192.168.0.2", "to": "8.8.8.8", "port": 53, "protocol": "UDP"}',
    ]
    requests = tmp_path / "requests"
    requests.write_text("\n".join(lines))
    done = percale(*resolve, "--batch", str(requests), code=2)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each.get("action") for each in answers] == ["endpoints", "reject", *[None] * 6, "none"]
    assert answers[3] == {"errors": [{"what": "port: missing", "where": f"{requests}:5", "hint": None}]}
    assert done.stderr.splitlines() == [
        f"percale: {requests}:4: not JSON: Expecting property name enclosed in double quotes",
        f"percale: {requests}:5: port: missing",
        f"percale: {requests}:6: port: expected a number or a name",
        f"percale: {requests}:7: there is no pod default/nowhere; there are no pods at all",
        f"percale: {requests}:8: '80/ICMP' is not a port; write 80, 80/tcp, 53/udp, 80/sctp, a port's name, or icmp",
        f"percale: {requests}:9: 203.0.113.2 and fd00:172::41 have no address family in common",
    ]
    good = f"{lines[0]}\n{lines[2]}\n"
    assert len(percale.out(*resolve, "--batch", "-", stdin=good).splitlines()) == 2


def test_lines_that_no_reader_expects(percale: Person, resolve: tuple[str, ...], tmp_path: Path) -> None:
    good = b'{"from": "10.180.0.9", "to": "172.30.0.41", "port": 80}'
    lines = [
        good + b"\r",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"from": "10.180.0.9", "to": "172.30.0.41", "port": ' + b"9" * 5000 + b"}",
        b'{"from": "10.180.0.9", "to": "172.30.0.41", "port": "' + b"9" * 5000 + b'"}',
        b'{"from": "10.180.0.9", "to": "172.30.0.41", "port": 80, "note": "\xe2\x80\xa8"}',
        b"\0",
        b"null",
        good,
        b'{"from": "10.180.0.9", "to": "svc/two\\nlines/web", "port": 80}',
    ]
    requests = tmp_path / "requests"
    requests.write_bytes(b"\n".join(lines))
    done = percale(*resolve, "--batch", str(requests), code=2)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["action"] for each in answers if "errors" not in each] == ["endpoints"] * 3
    assert len(answers) == len(lines)
    said = [line.removeprefix(f"percale: {requests}:") for line in done.stderr.splitlines()]
    assert said == [
        "2: not UTF-8 text",
        "3: not JSON: Nested too deep",
        "4: not JSON: A number that is none, or too large",
        f"5: {'9' * 40} is not a port; ports are 1 to 65535",
        "7: not JSON: Expecting value",
        "8: not a JSON object",
        "10: there is no Service two lines/web; did you mean svc/ns1/web?",
    ]


def test_manifests_that_no_cluster_has_seen(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text(PLAIN)
    asked = ("service", "resolve", "--node", "n1", "-f", str(file))
    answer = json.loads(percale.out(*asked, "-o", "json", "default/client", "svc/default/web:80"))
    assert (answer["endpoints"], answer["masquerade"]) == (["10.244.1.2:8080"], False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("default/nobody", "172.30.0.41:80"), "there is no pod default/nobody; there are no pods at all"),
        (("node/n9", "172.30.0.41:80"), "there is no node n9; did you mean node/n2?"),
        (("here", "172.30.0.41:80"), "there is no pod default/here; there are no pods at all"),
        (("10.0.0.1", "svc/ns1/db:80"), "there is no Service ns1/db; there are ns1/web"),
        (("10.0.0.1", "svc/ns1/web:https"), "Service ns1/web has no port named https; it names http"),
        (("10.0.0.1", "svc/web:80"), "there is no Service default/web; did you mean svc/ns1/web?"),
        (
            ("external/outside", "172.30.0.41:80"),
            "external/outside is a host of a lab; name its address, or a lab by --lab",
        ),
        (
            ("10.0.0.1", "172.30.0.41"),
            "'172.30.0.41' has no port; write FROM TO PORT, or FROM TO:PORT; an IPv6 address in brackets",
        ),
        (
            ("10.0.0.1", "fd00::1:80"),
            "'fd00::1:80' has no port; write FROM TO PORT, or FROM TO:PORT; an IPv6 address in brackets",
        ),
        (("--batch", "/nowhere"), "/nowhere: cannot be read: No such file or directory"),
        (("--batch", "/dev/zero"), "/dev/zero: a line of more than 1024 KiB"),
    ],
)
def test_complaints(percale: Person, resolve: tuple[str, ...], arguments: tuple[str, ...], said: str) -> None:
    assert percale.complaint(*resolve, *arguments) == f"percale: {said}"


def test_a_node_that_is_not_there(percale: Person, resolve: tuple[str, ...]) -> None:
    arguments = tuple("n3" if each == "n1" else each for each in resolve)
    assert (
        percale.complaint(*arguments, "10.0.0.1", "172.30.0.41:80")
        == "percale: there is no node 'n3'; there are n1, n2"
    )


def test_a_service_with_a_fault_is_named_and_the_others_are_answered(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        CLUSTER.replace(
            "name: web, namespace: ns1}", "name: web, namespace: ns1, annotations: {percale.io/strategy: best}}"
        )
    )
    done = percale("service", "resolve", "--node", "n1", "-f", str(file), "10.180.0.9", "172.30.0.41:80")
    assert 'percale.io/strategy: unknown strategy "best"' in done.stderr
    assert "  10.180.0.1:8080" in done.stdout.splitlines()


def test_wrong_usage(percale: Person, resolve: tuple[str, ...]) -> None:
    assert "give FROM, TO and PORT, or --batch FILE" in percale(*resolve, code=2).stderr
    assert "not both" in percale(*resolve, "10.0.0.1", "172.30.0.41:80", "--batch", "-", code=2).stderr
    assert "is not a network" in percale(*resolve, "--pod-cidr", "10", "--batch", "-", code=2).stderr


def test_the_node_is_that_of_the_source_where_it_has_one(
    percale: Person, resolve: tuple[str, ...], tmp_path: Path
) -> None:
    anywhere = tuple(each for each in resolve if each not in ("--node", "n1"))
    (tmp_path / "pods.yaml").write_text(PLAIN)
    asked = (*anywhere, "-f", str(tmp_path / "pods.yaml"))
    web, of_pod = "172.30.0.41:30001", "1.2.3.4:80"
    for source in ("client", "10.244.1.3", "node/n1"):
        assert percale.out(*asked, source, of_pod) == percale.out(*asked, source, of_pod, "--node", "n1")
    for source in ("203.0.113.2", "10.180.0.9"):
        assert percale.complaint(*asked, source, web) == (
            f"percale: {source} is on no node, so a packet of it may be seen on any; name one by --node: n1, n2"
        )
    line = json.dumps({"from": "default/client", "to": "svc/ns1/web", "port": "http"})
    assert json.loads(percale.out(*asked, "--batch", "-", stdin=line))["action"] == "endpoints"
    alone = ("service", "resolve", "-f", str(tmp_path / "pods.yaml"), "203.0.113.2", "svc/web:80")
    assert "10.244.1.2:8080" in percale.out(*alone), "without nodes it makes no difference"
