"""`percale policy test` as a person types it: by the evaluator, and every case with real packets."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

from tests.e2e.conftest import Person

CASE = """\
name: only-friends
pods:
- {namespace: shop, name: db, labels: {app: db}, ip: 10.71.1.11}
- {namespace: shop, name: web, labels: {app: web}, ip: 10.71.2.12}
policies:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {matchLabels: {app: db}}
    ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
probes:
- {from: shop/web, to: shop/db, protocol: TCP, port: 5432, allowed: true}
- {from: shop/web, to: shop/db, protocol: TCP, port: 22, allowed: true}
"""


def test_a_wrong_probe_is_a_line_with_its_reason(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(CASE)
    wrong, summary = percale.out("policy", "test", str(tmp_path), code=1).splitlines()
    assert wrong == (
        f"wrong: {file}:14: only-friends: shop/web → shop/db 22/TCP: expected allowed, denied: ingress denied: isolated by "
        f"np:shop/db ({file}:6), and no rule allows it; nearest np:shop/db#ingress[0] ({file}:11): "
        "it allows port 5432, you asked 22"
    )
    assert summary == "1 case, 2 probes: 1 right, 1 wrong by the evaluator"


def test_junit_and_json_say_the_same(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "<&>.yaml"
    file.write_text(CASE)
    root = Xml.fromstring(percale.out("policy", "test", str(file), "-o", "junit", code=1))
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    assert [each.get("name") for each in root.iter("testcase")] == [
        "shop/web → shop/db 5432/TCP",
        "shop/web → shop/db 22/TCP",
    ]
    (failure,) = root.iter("failure")
    assert "<&>.yaml:14" in (failure.get("message") or "")
    answer = json.loads(percale.out("policy", "test", str(file), "-o", "json", code=1))
    assert [(each["expected"], each["found"], each["wrong"]) for each in answer["probes"]] == [
        ("allowed", "allowed", False),
        ("allowed", "denied", True),
    ]


def test_nothing_to_test_is_an_error(percale: Person, tmp_path: Path) -> None:
    assert "no manifests in this directory" in percale.complaint("policy", "test", str(tmp_path))
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert "no case in " in percale.complaint("policy", "test", str(tmp_path))
    percale("policy", "test", code=2)


def test_wrong_expectations_are_found_with_real_packets_too(percale: Person, tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(CASE + "- {from: shop/db, to: shop/web, protocol: UDP, port: 53, allowed: false}\n")
    closed, opened, summary = percale.out("policy", "test", str(file), "--live", code=1).splitlines()
    assert closed.startswith(
        f"wrong: {file}:14: only-friends: shop/web → shop/db 22/TCP: expected allowed, denied: timeout"
    )
    assert "the evaluator says denied" in closed
    assert opened.startswith(
        f"wrong: {file}:15: only-friends: shop/db → shop/web 53/UDP: expected denied, allowed: allowed"
    )
    assert summary == "1 case, 3 probes: 1 right, 2 wrong with real packets"


def test_every_case_with_real_packets(percale: Person) -> None:
    upstream = percale("policy", "test", "tests/cases/policy-e2e", "--live", timeout=240).stdout
    assert upstream.startswith(
        "58 cases, 506 probes: 476 right, 0 wrong with real packets; 30 right, 0 wrong by the evaluator"
    )
    own = json.loads(percale("policy", "test", "tests/cases/own", "--live", "-o", "json", timeout=240).stdout)
    assert own["wrong"] == 0
    apart = {each["apart"] for each in own["probes"]} - {None}
    assert apart == {
        "a lab's probes are TCP and UDP, not ICMP",
        "a lab's probes are TCP and UDP, not SCTP",
        "no host of a lab can have 10.61.1.12: the pod network 10.61.0.0/22 and segment out1 overlap",
    }
