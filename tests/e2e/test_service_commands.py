"""`percale service list`, `show`, `check`, and `why` for Services, as a person types them; in a lab the packets agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Person
from tests.waiting import until

SHOP = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {percale.io/strategy: rr}}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: strict, namespace: shop}
spec: {type: NodePort, selector: {strict: "yes"}, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: strict, namespace: shop, labels: {app: web, strict: "yes"}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8081}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: c}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: strict, namespace: shop}
spec:
  podSelector: {matchLabels: {strict: "yes"}}
  ingress: [{from: [{ipBlock: {cidr: 203.0.113.2/32}}]}]
"""

NODES = """\
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.7, internalTrafficPolicy: Local, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2], nodeName: n1}, {addresses: [10.244.2.2], nodeName: n2}]
ports: [{port: 8080}]
"""


@pytest.fixture
def nodes(tmp_path: Path) -> str:
    file = tmp_path / "nodes.yaml"
    file.write_text(NODES)
    return str(file)


@pytest.fixture
def shop(tmp_path: Path) -> str:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    return str(file)


@pytest.fixture
def closed(tmp_path: Path) -> str:
    """The policy names pods: addresses, which pods of manifests do not have yet, do not matter."""
    file = tmp_path / "closed.yaml"
    file.write_text(SHOP.replace("ipBlock: {cidr: 203.0.113.2/32}", "podSelector: {matchLabels: {access: granted}}"))
    return str(file)


def test_a_service_that_would_cost_too_much_is_told(percale: Person, tmp_path: Path) -> None:
    """Also one that no cluster has given an address yet."""
    ports = [{"name": f"p{number}", "port": 1000 + number} for number in range(1001)]
    file = tmp_path / "huge.json"
    meta = {"name": "huge", "namespace": "default"}
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"selector": {"app": "a"}, "ports": ports},
            }
        )
    )
    assert "it would take 100100 elements in each node's kernel, of 100000 that it may" in percale.out(
        "service", "check", str(file)
    )


def test_the_list(percale: Person, nodes: str) -> None:
    assert percale.out("service", "list", "-f", nodes).splitlines() == [
        "SERVICE       TYPE           ADDRESSES                   PORTS    STRATEGY   AFFINITY   ENDPOINTS",
        "default/db    ExternalName   a name for db.example.com   -        -          -          -",
        "default/web   ClusterIP      10.96.0.7                   80/TCP   random     -          2/2",
    ]
    assert [each["name"] for each in json.loads(percale.out("service", "list", "-f", nodes, "-o", "json"))] == [
        "db",
        "web",
    ]
    assert percale("service", "list", "-f", nodes, "-n", "shop").stderr == "no Services in namespace shop\n"


def test_manifests_that_no_cluster_has_seen_have_endpoints_too(percale: Person, shop: str) -> None:
    rows = [line.split() for line in percale.out("service", "list", "-f", shop).splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:]] == [("shop/strict", "1/1"), ("shop/web", "3/3")]


def test_one_service(percale: Person, nodes: str) -> None:
    told = percale.out("service", "show", "web", "-f", nodes).splitlines()
    assert told[0] == "Service default/web as n1 sees it: ClusterIP, strategy random"
    assert told[-2:] == [
        "  10.244.1.2:8080   n1     -     yes",
        "  10.244.2.2:8080   n2     -     no     on n2, and internalTrafficPolicy is Local",
    ]
    found = json.loads(percale.out("service", "show", "default/web", "-f", nodes, "-o", "json"))
    assert [each["used"] for each in found["ports"][0]["endpoints"]] == ["yes", "no"]
    assert percale.out("service", "show", "db", "-f", nodes).strip() == (
        "Service default/db as n1 sees it: ExternalName, a name for db.example.com"
    )


def test_names_that_are_not_there(percale: Person, nodes: str) -> None:
    show = ("service", "show", "-f", nodes)
    assert percale.complaint(*show, "wep") == "percale: there is no Service default/wep; did you mean svc/default/web?"
    assert percale.complaint(*show, "web", "-n", "shop") == (
        "percale: there is no Service shop/web; did you mean svc/default/web?"
    )
    assert percale.complaint(*show, "web", "--node", "n3") == "percale: there is no node 'n3'; there are n1"
    assert "either -f or --lab" in percale(*show, "web", "--lab", "lab", code=2).stderr


def test_why_names_the_endpoints(percale: Person, shop: str, closed: str) -> None:
    told = percale.out("why", "shop/client", "svc/shop/web:http", "-f", closed, code=2).splitlines()
    assert told[0] == "in part: 2 of 3 endpoints allowed: shop/client → svc/shop/web:http"
    assert "    denied: shop/client → shop/strict, 8081/TCP" in told
    assert percale.out("why", "shop/client", "svc/shop/strict", "80", "-f", closed, code=1).startswith("denied: ")
    assert percale.out("why", "shop/client", "svc/shop/web:80", "-f", shop, code=2).startswith("cannot tell: ")
    allowed = json.loads(percale.out("why", "203.0.113.2", "svc/shop/strict:80", "-f", shop, "-o", "json"))
    assert (allowed["verdict"], allowed["to"], allowed["port"]) == ("allowed", "svc/shop/strict", 80)


def test_why_takes_the_first_pod_of_a_workload(percale: Person, closed: str) -> None:
    told = percale.out("why", "deploy/shop/web", "shop/strict", "http", "-f", closed, code=1).splitlines()
    assert told[0].startswith("deploy/shop/web: its first pod is shop/web-")
    assert told[1].startswith(f"denied: {told[0].rpartition(' ')[2]} → shop/strict, 8081/TCP")
    found = json.loads(percale.out("why", "deploy/shop/web", "deploy/shop/web", "80", "-f", closed, "-o", "json"))
    assert found["taken"] == {"deploy/shop/web": found["from"]}
    assert percale.complaint("why", "deploy/web", "shop/strict", "80", "-f", closed) == (
        "percale: there is no pod of deployment default/web; did you mean deploy/shop/web?"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("svc/shop/web:https",), "percale: Service shop/web has no port https; it has http = 80/TCP"),
        (("svc/web:80",), "percale: there is no Service default/web; did you mean svc/shop/web?"),
        (("svc/shop/web",), "write FROM TO PORT, or FROM TO:PORT"),
        (("svc/shop/web:80", "80"), "give the port once"),
        (("shop/strict",), "'shop/strict' has no port"),
    ],
)
def test_what_why_cannot_answer(percale: Person, shop: str, arguments: tuple[str, ...], said: str) -> None:
    assert said in percale("why", "shop/client", *arguments, "-f", shop, code=2).stderr


def test_why_says_that_an_address_is_a_services(percale: Person, nodes: str, tmp_path: Path) -> None:
    """A verdict on the address would say nothing of the pods behind it."""
    open_port = tmp_path / "node-port.yaml"
    open_port.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: open}\n"
        "spec: {type: NodePort, clusterIP: 10.96.0.8, ports: [{name: http, port: 80, nodePort: 30080}]}\n"
    )
    asked = ("why", "203.0.113.2", "-f", nodes, "-f", str(open_port))
    for to, said in (
        (("10.96.0.7", "80"), "10.96.0.7:80/TCP leads to Service default/web; ask for svc/default/web:80"),
        (
            ("192.168.0.2", "30080"),
            "192.168.0.2:30080/TCP leads to Service default/open; ask for svc/default/open:http",
        ),
        (("node/n1", "30080"), "192.168.0.2:30080/TCP leads to Service default/open; ask for svc/default/open:http"),
    ):
        assert percale.complaint(*asked, *to) == f"percale: {said}"
    assert percale.out(*asked, "192.168.0.2", "22").startswith("allowed: ")
    assert percale.out(*asked, "192.168.0.2", "30080/udp").startswith("allowed: ")
    manifests = tmp_path / "manifests.yaml"  # that no cluster has seen: the Service has no cluster IP yet
    manifests.write_text(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.168.0.2}]}\n"
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\nspec: {containers: [{name: c}]}\n---\n"
        + open_port.read_text().replace("clusterIP: 10.96.0.8", "selector: {app: a}")
    )
    assert "leads to Service default/open" in percale.complaint(
        "why", "203.0.113.2", "node/n1", "30080", "-f", str(manifests), code=2
    )


# check


def checked(percale: Person, tmp_path: Path, text: str, *arguments: str, code: int) -> list[str]:
    file = tmp_path / "checked.yaml"
    file.write_text(text)
    return percale.out("service", "check", str(file), *arguments, code=code).replace(f"{file}:", "").splitlines()


def service(name: str, spec: str, annotations: str = "") -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
{"".join(f"  {line}{chr(10)}" for line in spec.splitlines())}---
"""


def test_errors_are_the_api_servers_with_their_lines(percale: Person, tmp_path: Path) -> None:
    bad = service("a", "type: NodePrt\nports:\n- port: 80\n- port: 70000\n  name: two") + service(
        "b", "type: ExternalName\nexternalName: a_b"
    )
    assert [line.split("; ")[0][:110] for line in checked(percale, tmp_path, bad, code=1)] == [
        '5: spec.type: Unsupported value: "NodePrt": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "No',
        "7: spec.ports[0].name: Required value",
        "8: spec.ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        '16: spec.externalName: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanu',
        "4 errors",
    ]


def test_what_cannot_be_given(percale: Person, tmp_path: Path) -> None:
    asked = service("a", "clusterIP: 10.96.0.5\nports: [{port: 80}]")
    twice = asked + asked.replace("name: a", "name: b")
    taken = 'spec.clusterIPs: Invalid value: ["10.96.0.5"]: failed to allocate IP 10.96.0.5: provided IP is already allocated'
    assert checked(percale, tmp_path, twice, code=1)[0].endswith(taken)
    assert checked(percale, tmp_path, asked, code=0) == ["1 Service, 0 EndpointSlices: 0 errors, 0 warnings"]
    outside = checked(percale, tmp_path, asked, "--service-cidr", "10.97.0.0/16", code=1)[0]
    assert outside.endswith("is not in the valid range. The range of valid IPs is 10.97.0.0/16")
    lab = "apiVersion: percale.io/v1alpha1\nkind: Lab\nmetadata: {name: x}\nspec: {serviceCIDR: 10.98.0.0/16}\n---\n"
    assert checked(percale, tmp_path, lab + asked, code=1)[0].endswith("The range of valid IPs is 10.98.0.0/16")
    port = service("a", "type: NodePort\nports:\n- port: 80\n  nodePort: 80")
    assert checked(percale, tmp_path, port, code=1)[0] == (
        "8: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. "
        "The range of valid ports is 30000-32767"
    )


def test_a_nodes_tunnel_is_no_endpoint_and_told(percale: Person, tmp_path: Path) -> None:
    text = """\
apiVersion: percale.io/v1alpha1
kind: SubnetLease
metadata: {name: 10.244.2.0-24}
spec: {node: n2, subnet: 10.244.2.0/24, publicIP: 192.168.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8472, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.0]}]
ports: [{port: 8472, protocol: UDP}]
"""
    problem = "EndpointSlice default/web-1: 10.244.2.0:8472/UDP is the tunnel of a node, and no endpoint"
    assert checked(percale, tmp_path, text, code=0)[0] == f"6: warning: Service default/web: {problem}"
    shown = percale.out("service", "show", "web", "-f", str(tmp_path / "checked.yaml"))
    assert "no     the tunnel of a node" in shown
    assert problem in shown


def test_slices_and_lists_are_checked_and_others_services_are_not(percale: Person, tmp_path: Path) -> None:
    knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: K}\nspec: {ports: 3}\n---\n"
    assert checked(percale, tmp_path, knative, code=0) == ["0 Services, 0 EndpointSlices: 0 errors, 0 warnings"]
    listed = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: web-1}
  addressType: IPv4
  endpoints:
  - addresses: [127.0.0.1]
"""
    assert checked(percale, tmp_path, listed, code=1)[0] == (
        '7: endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'
    )


def test_what_one_service_suffers_from_is_a_warning(percale: Person, tmp_path: Path) -> None:
    external = "externalIPs: [192.0.2.1]\nports: [{port: 80}]"
    odd = service("a", f"clusterIP: 10.96.0.5\n{external}", "percale.io/strategy: best") + service(
        "b", f"clusterIP: 10.96.0.6\n{external}"
    )
    assert checked(percale, tmp_path, odd, code=0) == [
        '1: warning: Service default/a: percale.io/strategy: unknown strategy "best" '
        "(there are random, rr, wrr, sh, mh, lc); random is used",
        "9: warning: Service default/b: 192.0.2.1:80/TCP belongs to Service default/a",
        "2 Services, 0 EndpointSlices: 0 errors, 2 warnings",
    ]
    file = tmp_path / "checked.yaml"
    found = json.loads(percale.out("service", "check", str(file), "-o", "json"))
    assert (found["warning"], found["findings"][1]["subject"]) == (2, "Service default/b")


def test_what_cannot_be_read_is_one_error(percale: Person, tmp_path: Path) -> None:
    assert checked(percale, tmp_path, "kind: [", code=1)[-1] == "1 error; warnings come when there are none"


# A lab


def test_in_a_lab_they_say_what_the_packets_do(percale: Person, shop: str) -> None:
    percale("lab", "up", "-f", shop)
    until(lambda: "3/3" in percale.out("service", "list", "-n", "shop"))

    def asked(source: str, target: str, code: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(percale.out("why", source, target, "-o", "json", code=code))
        return found

    verdicts = {
        each["to"]: each["verdict"] for each in asked("shop/client", "svc/shop/web:80", 2)["ways"][0]["endpoints"]
    }
    assert sorted(verdicts.values()) == ["allowed", "allowed", "denied"]
    tried = [percale.probe("shop/client", "svc/shop/web", "80", "--timeout", "0.7") for _ in range(3)]  # in turns
    assert sorted(tried) == ["allowed", "allowed", "timeout"]

    node = percale.pods()["shop/client"]["spec"]["nodeName"]
    seen = json.loads(percale.out("service", "show", "shop/web", "--node", node, "-o", "json"))
    counts = {each["pod"]: each["connections"] for each in seen["ports"][0]["endpoints"]}
    assert all(counts[pod] >= 1 for pod, verdict in verdicts.items() if verdict == "allowed")
    assert set(counts) == set(verdicts)

    resolved = percale.out("service", "resolve", "shop/client", "svc/shop/web:80", "--node", node, "--lab", "lab")
    assert resolved.splitlines()[0] == "cluster IP of shop/web:http from a pod: one of 3 endpoints, source kept"
    assert {line.strip() for line in resolved.splitlines()[1:]} == {
        each["endpoint"] for each in seen["ports"][0]["endpoints"]
    }


def test_in_a_lab_a_masquerading_node_is_whom_the_policy_sees(percale: Person, shop: str) -> None:
    percale("lab", "up", "-f", shop)
    until(lambda: "1/1" in percale.out("service", "list", "-n", "shop"))
    found = json.loads(percale.out("why", "external/outside", "svc/shop/strict:80", "-o", "json", code=2))
    assert found["verdict"] == "in part"
    assert len(found["ways"]) == 3
    for way in found["ways"]:
        address, _, port = way["address"].removesuffix("/TCP").rpartition(":")
        word = percale.probe("external/outside", address, port, "--timeout", "0.7")
        assert (word == "allowed") == (way["endpoints"][0]["verdict"] == "allowed"), way
        assert (word == "allowed") == (way["endpoints"][0]["seenAs"] is None), way
