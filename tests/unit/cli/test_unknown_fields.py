"""Unknown fields: every command that reads manifests refuses them, unless it is told not to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.cli.conftest import CASE, percale

from percale.errors import BadManifest
from percale.lab.run_dir import LabDir
from percale.lab.spec.input import read_input, read_objects
from percale.model.manifest.decode import inspect_manifest

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podselector: {matchLabels: {app: a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, securityContext: {}}], tolerations: []}}
"""
REFUSED = "p.yaml:5: spec.podselector: unknown field; did you mean podSelector?"
INLINE = CASE.replace(
    "manifests: [p.yaml]\n",
    "policies:\n- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {ingres: []}}\n",
)


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    (here / "p.yaml").write_text(POLICY)
    (here / "case.yaml").write_text(CASE)
    (here / "inline.yaml").write_text(INLINE)


@pytest.mark.parametrize(
    "command",
    [
        "matrix -f p.yaml",
        "matrix -f p.yaml --diff p.yaml",
        "why -f p.yaml a 1.1.1.1 80",
        "service list -f p.yaml",
        "service check p.yaml",
        "policy check p.yaml",
        "policy test case.yaml",
    ],
)
def test_a_flag_lets_them_pass(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert percale(*command.split()) != 0
    told = capsys.readouterr()
    assert REFUSED in told.out + told.err
    assert percale(*command.split(), "--validate=warn") == 0
    told = capsys.readouterr()
    assert "spec.podselector: unknown field" in told.out + told.err
    assert percale(*command.split(), "--validate=ignore") == 0
    told = capsys.readouterr()
    assert "unknown field" not in told.out + told.err


def test_a_policy_in_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert percale("policy", "test", "inline.yaml") == 2
    assert "inline.yaml:3: spec.ingres: unknown field; did you mean ingress?" in capsys.readouterr().err
    assert percale("policy", "test", "inline.yaml", "--validate=ignore") == 0


def test_a_lab() -> None:
    documents, lab_dir = [("p.yaml", POLICY)], LabDir("lab", Path("/nowhere"))
    for refused in (lambda: read_input(documents), lambda: read_objects(documents, "default", lab_dir)):
        with pytest.raises(BadManifest) as caught:
            refused()
        assert str(caught.value) == REFUSED
    assert read_input(documents, "warn").skipped == (REFUSED,)
    assert read_objects(documents, "default", lab_dir, "warn")[1] == [REFUSED]
    assert read_input(documents, "ignore").skipped == ()


PODS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      restartPolicy: Always
      initContainer: []
      conatiners: []
      containers:
      - name: web
        imagePullPolcy: Always
        livenessProbe: {httpGet: {port: 80}}
        ports: [{containerport: 80, containerPort: 80}]
        zzz: 1
---
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec: {backofflimit: 3, template: {spec: {containers: []}}}
"""


def test_pods(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(PODS)
    assert percale("policy", "check", "a.yaml") == 1
    assert capsys.readouterr().out.splitlines()[:-1] == [
        f"a.yaml:{line}" for line in (
            "10: spec.template.spec.initContainer: unknown field; did you mean initContainers?",
            "11: spec.template.spec.conatiners: unknown field; did you mean containers?",
            "14: spec.template.spec.containers[0].imagePullPolcy: unknown field; did you mean imagePullPolicy?",
            "16: spec.template.spec.containers[0].ports[0].containerport: unknown field; did you mean containerPort?",
            "17: spec.template.spec.containers[0].zzz: unknown field",
            "22: spec.backofflimit: unknown field; did you mean backoffLimit?",
        )
    ]  # fmt: skip


def test_labels_without_match_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Selectors written as those of a Service."""
    (here / "a.yaml").write_text(
        POLICY.partition("---")[0].replace(
            "podselector: {matchLabels: {app: a}}", "podSelector: {app: a, matchlabel: b}"
        )
        + "  ingress: [{from: [{namespaceSelector: {name: shop}}]}]\n"
    )
    assert percale("policy", "check", "a.yaml") == 1
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "a.yaml:5: spec.podSelector.app: unknown field; write matchLabels: {app: a}",
        "a.yaml:5: spec.podSelector.matchlabel: unknown field; did you mean matchLabels?",
        "a.yaml:6: spec.ingress[0].from[0].namespaceSelector.name: unknown field; "
        "write matchLabels: {kubernetes.io/metadata.name: shop}",
    ]


def test_json_and_what_a_cluster_prints() -> None:
    metadata = {"name": "p", "managedFields": [{}], "finalizers": [], "selfLink": "/"}
    document = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata}
    printed = {**document, "spec": {"podSelector": {}}, "status": {}}
    assert inspect_manifest(json.dumps(printed).encode(), "p.json").unknown == ()
    wrong = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [printed, {**document, "metadata": {"name": "q", "label": {}}}],
    }
    (fault,) = inspect_manifest(json.dumps(wrong, indent=1).encode(), "p.json").unknown
    assert fault.what == "metadata.label: unknown field"
    assert fault.hint == "did you mean labels?"
