"""All that is wrong with manifests is told at once: wrong types, rules of the API server, unknown fields, unreadable files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, labels: {a: 1, b: true}}
spec:
  podSelector: app=web
  policyTypes: [ingress, 3]
  ingress:
  - from:
    - ipBlock: 10.0.0.0/8
    - podSelector: {matchlabels: {}}
    ports:
    - port: true
      protocol: HTTP
    - 80
  egres: []
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: q}
spec: {podselector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: r}
spec: {podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: p, labels: [a]}
spec:
  replicas: "3"
  selector: {matchLabels: {app: 1}}
  template:
    metadata: {labels: {app: b}}
    spec:
      containers:
      - name: 3
        ports: [{containerPort: "80", protocol: tcp}, {name: x}]
      - {}
"""
ERRORS = (
    'a.yaml:3: metadata.labels.a: expected a text, got 1; write "1" in quotes',
    'a.yaml:3: metadata.labels.b: expected a text, got true; write "true" in quotes',
    'a.yaml:5: spec.podSelector: expected a mapping, got "app=web"; write {matchLabels: {app: web}}',
    'a.yaml:6: spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"; write Ingress',
    "a.yaml:6: spec.policyTypes[1]: expected Egress or Ingress, got 3",
    'a.yaml:9: spec.ingress[0].from[0].ipBlock: expected a mapping, got "10.0.0.0/8"; write {cidr: 10.0.0.0/8}',
    "a.yaml:10: spec.ingress[0].from[1].podSelector.matchlabels: unknown field; did you mean matchLabels?",
    'a.yaml:12: spec.ingress[0].ports[0].port: expected a whole number or a text, got true; write "true" in quotes',
    'a.yaml:13: spec.ingress[0].ports[0].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"',
    "a.yaml:14: spec.ingress[0].ports[1]: expected a mapping, got 80",
    "a.yaml:15: spec.egres: unknown field; did you mean egress?",
    "a.yaml:20: spec.podselector: unknown field; did you mean podSelector?",
    'a.yaml:25: spec.podSelector.matchExpressions[0].operator: Invalid value: "in": not a valid selector operator; write In',
    "b.yaml:2: not UTF-8 text; save the file as UTF-8",
    "c.yaml: no such file or directory",
    'd.yaml:3: metadata.labels: expected a mapping, got a list; remove the "- "',
    'd.yaml:5: spec.replicas: expected a whole number, got "3"; write 3 without quotes',
    'd.yaml:6: spec.selector.matchLabels.app: expected a text, got 1; write "1" in quotes',
    'd.yaml:11: spec.template.spec.containers[0].name: expected a text, got 3; write "3" in quotes',
    'd.yaml:12: spec.template.spec.containers[0].ports[0].containerPort: expected a whole number, got "80"; '
    "write 80 without quotes",
    'd.yaml:12: spec.template.spec.containers[0].ports[0].protocol: expected SCTP, TCP or UDP, got "tcp"; write TCP',
    "d.yaml:12: spec.template.spec.containers[0].ports[1].containerPort: missing",
    "d.yaml:13: spec.template.spec.containers[1].name: missing",
)
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {type: Foo, clusterIP: 3, sessionAffinity: 1, port: [], ports: [{port: "80"}]}
"""


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    (here / "a.yaml").write_text(POLICY)
    Path("b.yaml").write_bytes(b"a: b\n\xff: c\n")
    Path("c.yaml").symlink_to("nowhere")
    Path("d.yaml").write_text(DEPLOYMENT)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> list[str]:
    ended, output = run(capsys, *arguments)
    assert ended == code
    lines = (line.removeprefix("percale: ") for line in output)
    return sorted(line for line in lines if not line.endswith("warnings come when there are none"))


@pytest.mark.parametrize(
    "command",
    ["policy check .", "service check .", "matrix -f .", "why -f . a b 80", "service list -f .", "lab up -f .", "lab apply -f ."],
)  # fmt: skip
def test_every_command_tells_all(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = 1 if " check " in command else 2  # to find errors is what `check` is for
    assert told(capsys, *command.split(), code=code) == sorted(ERRORS)


def test_in_the_order_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "policy", "check", ".")[1][:-1] == list(ERRORS)


def test_unknown_fields_that_pass(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "policy", "check", ".", "--validate=ignore")
    assert lines == sorted(line for line in ERRORS if "unknown field" not in line)


def test_several_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(SERVICE)
    assert told(capsys, "service", "check", "s.yaml") == [
        "s.yaml:4: spec.clusterIP: expected a text, got 3; write \"3\" in quotes",
        "s.yaml:4: spec.port: unknown field; did you mean ports?",
        's.yaml:4: spec.ports[0].port: expected a whole number, got "80"; write 80 without quotes',
        "s.yaml:4: spec.sessionAffinity: expected ClientIP or None, got 1",
        's.yaml:4: spec.type: Unsupported value: "Foo": '
        'supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
    ]  # fmt: skip


def test_policy_tests(capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.yaml").write_text(
        "name: c\nmanifests: [a.yaml]\npods: []\n"
        "probes: [{from: 1, to: x, protocol: TCP, port: '80', allowed: 1}, {from: a/b, to: 1.1.1.1}]\n"
    )
    lines = told(capsys, "policy", "test", "case.yaml", "b.yaml", "c.yaml", code=2)
    assert [line for line in lines if not line.startswith("case.yaml")] == [
        line for line in ERRORS if line.startswith(("b.", "c."))
    ]
    assert [line.split(": ")[1] for line in lines if line.startswith("case.yaml")] == [
        "probes[0].allowed", "probes[0].from", "probes[0].port", "probes[1].allowed",
    ]  # fmt: skip


def test_a_path_that_cannot_be_looked_at(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    for command in (("matrix", "-f"), ("why", "a", "b", "80", "-f")):
        assert run(capsys, *command, name) == (2, [f"percale: {name}: cannot be read: File name too long"])


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("k/Chart.yaml", "percale: k: a Helm chart, not manifests; give the output of: helm template k"),
        ("k/kustomization.yaml", "percale: k: a kustomization, not manifests; give the output of: kubectl kustomize k"),
        ("k/base/p.yaml", "percale: k: no manifests in this directory; there are some in k/base"),
        ("k/notes.txt", "percale: k: no manifests in this directory; expected *.yaml, *.yml or *.json"),
    ],
)
def test_a_directory_without_whole_manifests(
    here: Path, capsys: pytest.CaptureFixture[str], file: str, told: str
) -> None:
    (here / file).parent.mkdir(parents=True)
    (here / file).write_text("name: x\n")
    assert run(capsys, "matrix", "-f", "k") == (2, [told])
