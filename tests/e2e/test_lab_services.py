"""Services in a lab: by name, from outside, without pods, with affinity; what is refused; pods that leave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from tests.e2e.conftest import PERCALE, Person
from tests.waiting import until

WGET = ("exec", "-n", "by-name", "client", "--", "wget", "--spider", "--timeout=1")

WEB = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: {type}, selector: {{app: web}}, ports: [{{port: 80{more}}}]}}
"""

DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: gomo-test}
spec: {podSelector: {}, policyTypes: [Egress]}
"""


def probed(person: Person, *arguments: str, code: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(person.out("lab", "probe", *arguments, "-o", "json", code=code))
    return answer


def test_by_name(percale: Person) -> None:
    shown = percale.out("lab", "up", "-f", "examples/services/by-name.yaml")
    assert "3 nodes and 3 pods are ready" in shown
    assert "kube-system" not in shown
    percale("lab", *WGET, "nginx")
    for name in ("nginx", "nginx.by-name", "nginx.by-name.svc.cluster.local"):
        told = probed(percale, "-n", "by-name", "client", name, "80")
        pod = percale.pods()[told["answered"]["name"]]
        assert told["answered"]["kind"] == "pod"
        assert told["answered"]["node"] == pod["spec"]["nodeName"]
        client = percale.pods()["by-name/client"]["status"]["podIP"]
        assert told["answered"]["client"].rpartition(":")[0] == client
    text = percale.out("lab", "probe", "by-name/client", "svc/by-name/nginx", "80")
    assert re.match(
        r"allowed: by-name/client → svc/by-name/nginx, 10\.96\.\d+\.\d+:80/tcp, [\d.]+ ms;"
        r" pod by-name/nginx-\S+ on node\d saw 10\.244\.",
        text,
    )
    assert percale.probe("by-name/client", "svc/by-name/nginx", "81") == "refused"
    assert percale.probe("by-name/client", "outside", "80") == "allowed"
    assert percale.probe("by-name/client", "svc/kube-system/kube-dns", "53/udp") == "allowed"
    table = percale.out("lab", "get", "endpointslices", "-n", "by-name").splitlines()
    assert re.match(r"nginx-ipv4-0 +IPv4 +80 +10\.244\.\d+\.\d+,10\.244\.\d+\.\d+ +\d+s$", table[1])
    assert re.search(r"^kube-system +dns +1/1 +Running", percale.out("lab", "get", "pods", "-A"), re.MULTILINE)


def test_who_is_asked_for_a_name_and_who_knows_none(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/nginx.yaml", "-f", "examples/busybox.yaml")
    resolver = percale.out("lab", "exec", "-n", "gomo-test", "busybox", "--", "cat", "/etc/resolv.conf").splitlines()
    assert resolver == [
        "nameserver 10.96.0.10",
        "search gomo-test.svc.cluster.local svc.cluster.local cluster.local",
        "options ndots:5",
    ]
    machine = percale.out("lab", "node", "node1", "--", "cat", "/etc/resolv.conf")
    assert "10.96.0.10" not in machine
    said = percale.complaint("lab", "probe", "-n", "gomo-test", "busybox", "nowhere", "80")
    assert "there is no pod gomo-test/nowhere, and gomo-test/busybox resolves no such name" in said
    said = percale.complaint("lab", "probe", "node/node1", "nginx", "80")
    assert "there is no pod default/nginx; did you mean deploy/gomo-test/nginx or svc/gomo-test/nginx?" in said
    said = percale.complaint("lab", "probe", "gomo-test/busybox", "svc/nginx", "80")
    assert "there is no service default/nginx; did you mean svc/gomo-test/nginx?" in said
    headless = WEB.format(name="each", type="ClusterIP", more="").replace("app: web}", "run: nginx}, clusterIP: None")
    percale("lab", "apply", "-n", "gomo-test", "-f", "-", stdin=headless)
    until(lambda: percale.probe("gomo-test/busybox", "svc/gomo-test/each", "80") == "allowed")
    assert "each.gomo-test.svc.cluster.local. is known to pods only" in percale.complaint(
        "lab", "probe", "node/node1", "svc/gomo-test/each", "80"
    )
    percale("lab", "apply", "-f", "-", stdin=DENY)
    until(lambda: percale.probe("gomo-test/busybox", "svc/gomo-test/nginx", "80", "--timeout", "0.3") == "timeout")
    told = probed(percale, "gomo-test/busybox", "nginx", "80", "--timeout", "0.3", code=1)
    assert (told["result"], told["reason"]) == ("timeout", "the name server of gomo-test/busybox does not answer")


def test_from_outside(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/services/node-port.yaml")
    for node in ("node1", "node2", "node3"):
        assert probed(percale, "external/outside", f"node/{node}", "30080")["answered"]["name"].startswith(
            "node-port/web-"
        )
    shown = percale.out("lab", "get", "services", "-n", "node-port")
    assert re.search(r"^shop +LoadBalancer +10\.96\.\d+\.\d+ +198\.51\.100\.1 +80:3\d{4}/TCP ", shown, re.MULTILINE)
    for _ in range(5):
        told = probed(percale, "external/outside", "198.51.100.1", "80")
        assert told["to"] == "svc/node-port/shop"
        assert told["answered"]["client"].rpartition(":")[0] == "203.0.113.2"
    told = probed(percale, "external/outside", "svc/node-port/shop", "80")
    assert (told["to"], told["address"]) == ("svc/node-port/shop", "198.51.100.1")
    said = percale.complaint("lab", "probe", "external/outside", "svc/node-port/web", "80")
    assert "svc/node-port/web has no address outside the cluster, where external/outside is; its node port: " in said
    assert said.endswith("probe external/outside node/node1 30080/tcp")
    assert percale.shell(said.rpartition("port: ")[2]).startswith("allowed: ")


def test_an_outside_database(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/services/outside-database.yaml")
    there = ("-n", "outside-database")
    told = probed(percale, "-n", "outside-database", "client", "db", "5432")
    assert (told["answered"]["kind"], told["answered"]["name"]) == ("host", "outside")
    assert (
        percale.out("lab", "exec", *there, "client", "--", "getent", "hosts", "db").split()[1]
        == "db.outside-database.svc.cluster.local"
    )
    shown = percale.out("lab", "get", "endpointslices", *there)
    assert re.search(r"^db-mirrored-0 +IPv4 +80 +203\.0\.113\.2 ", shown, re.MULTILINE)
    assert re.search(r"^db +203\.0\.113\.2:80 ", percale.out("lab", "get", "endpoints", *there), re.MULTILINE)


def test_affinity(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/services/affinity.yaml")
    assert len({probed(percale, "-n", "affinity", "visitor", "cart", "80")["answered"]["name"] for _ in range(8)}) == 1
    assert probed(percale, "-n", "affinity", "other", "cart", "80")["result"] == "allowed"


NAMED = """
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: database.example}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: names
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: log}
spec:
  hostname: journal
  containers:
  - {name: c, ports: [{containerPort: 8080, hostPort: 81}, {containerPort: 5140, hostPort: 514, protocol: UDP}]}
"""


def test_pods_of_a_stateful_set_by_their_names_and_a_pod_at_its_nodes_ports(percale: Person) -> None:
    percale("lab", "up", "-f", "-", stdin=NAMED)
    for name in ("db-0.names", "db-1.names.default.svc.cluster.local"):
        told = probed(percale, "log", name, "5432")
        assert told["answered"]["name"] == f"default/{name.partition('.')[0]}"
    assert percale.out("lab", "exec", "db-0", "--", "hostname", "-f") == "db-0.names.default.svc.cluster.local\n"
    assert percale.out("lab", "exec", "log", "--", "hostname") == "journal\n"
    node = percale.pods()["default/log"]["spec"]["nodeName"]
    other = next(name for name in ("node1", "node2") if name != node)
    for client, port in (("external/outside", "81"), ("db-0", "81"), (f"node/{other}", "514/udp")):
        assert probed(percale, client, f"node/{node}", port)["answered"]["name"] == "default/log"
    assert percale.probe("external/outside", f"node/{other}", "81") == "refused"
    said = percale.complaint("lab", "probe", "log", "svc/elsewhere", "80")
    assert "svc/default/elsewhere is a name for database.example, which does not resolve" in said
    said = percale.complaint("lab", "probe", "log", "svc/empty", "80")
    assert "svc/default/empty is headless, and has no ready endpoint" in said


def test_an_address_or_port_that_is_taken_is_refused_and_nothing_is_applied(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/services/node-port.yaml")
    taken = percale.out("lab", "get", "svc", "web", "-n", "node-port", "-o", "json")
    address = json.loads(taken)["spec"]["clusterIP"]
    good = WEB.format(name="good", type="ClusterIP", more="")
    for bad, said in (
        (WEB.format(name="bad", type="NodePort", more=", nodePort: 30080"), "provided port is already allocated"),
        (WEB.format(name="bad", type="NodePort", more=", nodePort: 80"), "The range of valid ports is 30000-32767"),
        (
            WEB.format(name="bad", type="ClusterIP", more="").replace("spec: {", f"spec: {{clusterIP: {address}, "),
            f"failed to allocate IP {address}: provided IP is already allocated",
        ),
        (
            WEB.format(name="bad", type="ClusterIP", more="").replace("spec: {", "spec: {clusterIP: 10.7.0.1, "),
            "the provided IP (10.7.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16",
        ),
    ):
        complaint = percale.complaint("lab", "apply", "-f", "-", stdin=f"{good}---{bad}")
        assert "stdin:7: Service default/bad: spec." in complaint
        assert said in complaint
    assert "there is no service good" in percale.complaint("lab", "get", "svc", "good")
    assert percale.out("lab", "get", "svc", "web", "-n", "node-port", "-o", "json") == taken
    assert percale.out("lab", "apply", "-f", "examples/services/node-port.yaml").splitlines() == [
        "deployment.apps/web unchanged",
        "service/web unchanged",
        "service/shop unchanged",
    ]


def test_a_lab_with_a_service_that_cannot_be_does_not_start(percale: Person) -> None:
    bad = WEB.format(name="bad", type="NodePort", more=", nodePort: 80")
    complaint = percale.complaint("lab", "up", "-f", "-", stdin=bad)
    assert "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range" in complaint
    document = "{apiVersion: percale.io/v1alpha1, kind: Lab, spec: {serviceCIDR: 10.244.0.0/16}}"
    assert "10.244.0.0/16, which is in use, overlap" in percale.complaint("lab", "up", "-f", "-", stdin=document)
    assert percale.out("lab", "list").startswith("no lab is running")


def test_a_service_in_a_file_of_the_store_is_completed_or_told_of(percale: Person) -> None:
    percale("lab", "up")
    files = percale.runtime / "percale/labs/lab/store"
    (files / "good.yaml").write_text(WEB.format(name="good", type="NodePort", more=""))
    until(lambda: "10.96." in percale.out("lab", "get", "svc"))
    bad = WEB.format(name="bad", type="NodePort", more=", nodePort: 80")
    (files / "bad.yaml").write_text(bad)
    until(lambda: "Service default/bad: spec.ports[0].nodePort: Invalid value: 80" in percale.out("lab", "status"))


LEAVING = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {terminationGracePeriodSeconds: 3, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c}]}
---"""


def test_a_pod_answers_for_its_grace_period_and_its_endpoint_terminates_first(percale: Person) -> None:
    percale("lab", "up", "-f", "-", stdin=LEAVING + WEB.format(name="web", type="ClusterIP", more=""))
    percale("lab", "delete", "pod", "web")
    assert re.search(r"^web +1/1 +Terminating", percale.out("lab", "get", "pods"), re.MULTILINE)

    def conditions() -> list[dict[str, bool]]:
        slices = percale.objects("endpointslices")
        return [each["conditions"] for found in slices for each in found.get("endpoints", ())]

    leaving = {"ready": False, "serving": True, "terminating": True}
    until(lambda: conditions() == [leaving])
    assert percale.probe("client", "svc/web", "80") == "allowed"
    until(lambda: not conditions())
    assert percale.probe("client", "svc/web", "80") == "refused"
    assert "there is no pod web" in percale.complaint("lab", "get", "pod", "web")


ROLLING = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c}]}
---"""

ASKING = """
import socket, sys
while True:
    with socket.create_connection((sys.argv[1], 80), 2) as server:
        server.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(server.makefile().read().partition("pod: ")[2].partition("\\n")[0], flush=True)
"""


def test_a_rolling_update_loses_no_connection(percale: Person) -> None:
    percale("lab", "up", "-f", "-", stdin=ROLLING + WEB.format(name="web", type="ClusterIP", more=""))
    (service,) = percale.objects("services")
    old = set(percale.pods())
    inside = ["lab", "exec", "client", "--", sys.executable, "-c", ASKING, service["spec"]["clusterIP"]]
    with subprocess.Popen([PERCALE, *inside], stdout=subprocess.PIPE, text=True, env=percale.environment) as asking:
        percale("lab", "apply", "-f", "-", stdin=ROLLING.replace("image: nginx", "image: nginx:2"))
        seen = set[str]()

        def has_rolled() -> bool:
            for _ in range(200):
                answered = asking.stdout.readline().strip() if asking.stdout else ""
                assert answered, "a connection failed"
                seen.add(answered)
            return len(seen - old) == 3 and not (old - {"default/client"}) & set(percale.pods())

        until(has_rolled)
        asking.kill()


def test_a_service_of_very_many_ports_harms_nobody_else(percale: Person) -> None:
    """It would take more of each node's kernel than it may. Policies, pods and other Services do not notice."""
    percale("lab", "up", "-f", "examples/nginx.yaml", "-f", "examples/busybox.yaml")
    ports = [{"name": f"p{number}", "port": 1000 + number} for number in range(300)]
    meta = {"name": "huge", "namespace": "gomo-test", "annotations": {"percale.io/strategy": "mh"}}
    huge = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": {"run": "nginx"}, "ports": ports},
    }
    assert percale.out("lab", "apply", "-f", "-", stdin=json.dumps(huge)) == "service/huge created\n"
    status = ("lab", "node", "node3", "--", str(PERCALE), "status")
    until(lambda: "service gomo-test/huge" in percale.out(*status))
    assert re.search(r"it would take \d+ elements in each node's kernel, of 100000 that it may", percale.out(*status))
    until(lambda: len(percale.objects("events")) == 3)
    assert {(each["reason"], each["involvedObject"]["name"]) for each in percale.objects("events")} == {
        ("NotServed", "huge")
    }
    assert re.search(
        r"^huge\.\w+ +Warning +NotServed +service/huge +node1 +1 ",
        percale.out("lab", "get", "events", "-n", "gomo-test"),
        re.M,
    )
    assert percale.probe("gomo-test/busybox", "svc/gomo-test/huge", "1000") == "refused"
    percale("lab", "apply", "-n", "gomo-test", "-f", "-", stdin=WEB.format(name="plain", type="NodePort", more=""))
    percale("lab", "apply", "-f", "-", stdin=DENY)
    until(lambda: percale.probe("busybox", "deploy/nginx", "80", "-n", "gomo-test") == "timeout")
    percale("lab", "delete", "-f", "-", stdin=DENY)
    until(lambda: percale.probe("busybox", "deploy/nginx", "80", "-n", "gomo-test") == "allowed")
    table = ("lab", "node", "node1", "--", "nft", "list", "map", "inet", "percale-services", "services4")
    address = next(each for each in percale.objects("services") if each["metadata"]["name"] == "plain")["spec"][
        "clusterIP"
    ]
    until(lambda: address in percale.out(*table))
