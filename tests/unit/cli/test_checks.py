"""`percale policy check` and `service check`: findings about what stands between policies and pods, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run

ROOT = Path(__file__).parents[3]
MANIFESTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: www, namespace: shop}
spec:
  selector: {app: www}
  ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - ports:
    - port: 80
  - from:
    - ipBlock: {cidr: 10.50.0.0/24}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: q
  namespace: shpo
spec: {}
"""
SELECTS_NOTHING = (
    "a.yaml:25: warning: Service shop/www: its selector selects no pod of namespace shop: it has no endpoints "
    "(the pods there have app: web)"
)


def test_policies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(MANIFESTS)
    assert run(capsys, "policy", "check", "a.yaml", "--service-cidr", "10.50.0.0/16") == (
        0,
        [
            SELECTS_NOTHING,
            "a.yaml:35: warning: np:shop/p#ingress[0].ports[0]: 80 is the port of Service shop/web, and policies see that of "
            "its pods, 8080 (write port: 8080)",
            "a.yaml:37: warning: np:shop/p#ingress[1].from[0]: 10.50.0.0/24 holds cluster IPs, and policies see the addresses "
            "of pods instead (select the pods of the Service)",
            "a.yaml:43: warning: np:shpo/q: nothing defines the namespace shpo (did you mean shop?)",
            "2 policies: 0 errors, 4 warnings",
        ],
    )
    Path("lab.yaml").write_text(
        "apiVersion: percale.io/v1alpha1\nkind: Lab\nmetadata: {name: l}\nspec: {serviceCIDR: 10.50.0.0/16}\n"
    )
    assert "10.50.0.0/24 holds cluster IPs" in "".join(run(capsys, "policy", "check", ".")[1])
    assert run(capsys, "policy", "check", "a.yaml", "--service-cidr", "10.50")[0] == 2


def test_services(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(MANIFESTS)
    assert run(capsys, "service", "check", "a.yaml") == (
        0,
        [SELECTS_NOTHING, "2 Services, 0 EndpointSlices: 0 errors, 1 warning"],
    )


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "examples").rglob("*.yaml")) if path.parent.name != "broken"],
    ids=lambda path: path.name,
)
def test_examples(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They say nothing of DNS to be short."""
    code, lines = run(capsys, "policy", "check", str(path))
    assert code == 0
    assert not [line for line in lines if "warning: " in line and "cannot ask for names" not in line]
    assert not [line for line in run(capsys, "service", "check", str(path))[1] if "warning: " in line]


@pytest.mark.parametrize(("name", "severity"), [("ingress-nginx", "info"), ("kube-sistem", "warning")])
def test_policies_alone_name_namespaces_of_their_cluster(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, severity: str
) -> None:
    (here / "p.yaml").write_text(f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p}}
spec:
  podSelector: {{}}
  ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}]}}]
""")
    code, lines = run(capsys, "policy", "check", "--strict", "p.yaml")
    (told,) = (line for line in lines if "namespaceSelector selects no namespace" in line)
    assert told.startswith(f"p.yaml:6: {severity}: ")
    assert code == (severity == "warning")
