"""`percale why` as a person types it: over manifests, and over a lab where the packets say the same."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import Person

WORLD = """\
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {run: nginx}}
spec: {containers: [{name: nginx, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: busybox, labels: {run: busybox}}
spec: {containers: [{name: busybox}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: access-nginx}
spec:
  podSelector: {matchLabels: {run: nginx}}
  ingress:
  - from:
    - podSelector: {matchLabels: {access: "true"}}
"""


def test_manifests_are_enough_and_the_rule_is_told_with_file_and_line(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD)
    told = percale.out("why", "busybox", "nginx", "http", "-f", str(file), code=1).splitlines()
    assert told == [
        "denied: default/busybox → default/nginx, 80/TCP",
        "  egress   open: no policy isolates default/busybox",
        f"  ingress  denied: isolated by np:default/access-nginx ({file}:11), and no rule allows it",
        f"  nearest  np:default/access-nginx#ingress[0] ({file}:17): it allows pods with access=true, "
        "default/busybox has no label access=true",
        "  fix      kubectl label pod -n default busybox access=true",
    ]
    file.write_text(WORLD.replace("run: busybox", 'run: busybox, access: "true"'))
    allowed = json.loads(percale.out("why", "busybox", "nginx", "80", "-f", str(file), "-o", "json"))
    assert allowed["verdict"] == "allowed"
    assert allowed["flows"][0]["ingress"]["rule"] == "np:default/access-nginx#ingress[0]"
    assert allowed["flows"][0]["ingress"]["place"] == f"{file}:17"


def test_what_depends_on_an_address_that_nobody_has_yet_is_not_told(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD.replace('podSelector: {matchLabels: {access: "true"}}', "ipBlock: {cidr: 10.0.0.0/8}"))
    assert percale.out("why", "busybox", "nginx", "80", "-f", str(file), code=2).startswith("cannot tell: ")
    percale.out("why", "10.1.2.3", "nginx", "80", "-f", str(file))
    percale.out("why", "192.0.2.3", "nginx", "80", "-f", str(file), code=1)


def test_a_name_that_is_not_there_is_no_verdict(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD)
    assert (
        percale.complaint("why", "busybox", "ngnix", "80", "-f", str(file))
        == "percale: there is no pod default/ngnix; did you mean default/nginx?"
    )


def test_over_a_lab_it_says_what_the_packets_do(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD)
    percale("lab", "up", "-f", str(file))
    assert percale.probe("busybox", "nginx", "80", "--timeout", "0.7") == "timeout"
    told = percale.out("why", "busybox", "nginx", "80", "--lab", "lab", code=1)
    percale.shell(fix_in(told, "percale lab label pod -n default busybox access=true"))
    assert percale.out("why", "busybox", "nginx", "80").startswith("allowed: ")
    assert percale.probe("busybox", "nginx", "80") == "allowed"
    assert "it allows pods with access=true" in percale.out("why", "external/outside", "nginx", "80", code=1)


def test_a_denied_probe_names_the_question_that_has_the_reason(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD + SERVICE)
    percale("lab", "up", "--lab", "other", "-f", str(file))
    for to, asked in (
        ("nginx:http", "default/nginx 80/tcp"),
        ("pod/nginx:80", "default/nginx 80/tcp"),
        ("svc/web:www", "svc/default/web 8080/tcp"),
        ("web:8080", "svc/default/web 8080/tcp"),
        ("node/node1:30080", "svc/default/web 8080/tcp"),
    ):
        told = percale.out("lab", "--lab", "other", "probe", "busybox", to, "--timeout", "0.4", code=1).splitlines()
        assert told[1] == f"why: percale why default/busybox {asked} --lab other"
        assert percale.shell(told[1].removeprefix("why: "), code=1).startswith("denied: default/busybox")
        answer = json.loads(
            percale.out("--lab=other", "lab", "probe", "busybox", to, "--timeout", "0.4", "-o", "json", code=1)
        )
        assert answer["why"] == told[1].removeprefix("why: ")
    refused = percale.out("lab", "probe", "nginx", "busybox", "81", "--lab", "other", code=1)
    assert "why" not in refused
    assert "there is no pod default/nginxx" in percale.complaint(
        "lab", "probe", "--lab", "other", "busybox", "pod/nginxx", "80"
    )
    cut = percale.out("lab", "cut", "node1", "node2", "--lab", "other")
    percale.shell(cut.partition("undo it: ")[2])


SERVICE = """\
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {run: nginx}
  ports: [{name: www, port: 8080, targetPort: 80, nodePort: 30080}]
"""


def test_a_policy_that_is_proposed_is_applied_as_it_is_printed(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(WORLD + "---\n" + EVERYTHING_IS_DENIED)
    percale("lab", "up", "--name", "other", "-f", str(file))
    told = percale.out("why", "nginx", "busybox", "53/udp", "--lab", "other", code=1)
    for fix in fixes_in(told):
        assert fix.endswith(" | percale lab apply --lab other -f -")
        percale.shell(fix)
    assert percale.out("why", "nginx", "busybox", "53/udp", "--lab", "other").startswith("allowed: ")
    percale("why", "nginx", "busybox", "53/tcp", "--lab", "other", code=1)
    percale("why", "busybox", "nginx", "53/udp", "--lab", "other", code=1)


EVERYTHING_IS_DENIED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""


def fixes_in(told: str) -> list[str]:
    return [line.removeprefix("  fix      ") for line in told.splitlines() if line.startswith("  fix ")]


def fix_in(told: str, expected: str) -> str:
    (found,) = fixes_in(told)
    assert found == expected
    return found
