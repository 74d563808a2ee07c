"""`percale apply`, `get` and `delete` on a real API server: its defaults, its allocations, its rights, its other writers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cluster.api_server import AGENT, KubeApiServer
from tests.unit.cli.conftest import percale

SHOP = """\
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, labels: {a: b}}
spec: {podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: none}]}}
"""
NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n"


@pytest.fixture(autouse=True)
def _store(kube_apiserver: KubeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCALE_STORE", kube_apiserver.address)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code and both outputs."""
    code = percale(*arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_apply_get_and_delete(
    kube_apiserver: KubeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP)
    refused = (2, "", "percale: there is no namespace shop; nothing is applied; give its Namespace too\n")
    assert run(capsys, "apply", "-f", "shop.yaml") == refused
    (tmp_path / "shop.yaml").write_text(NAMESPACE + SHOP)
    names = ["service/web", "networkpolicy.networking.k8s.io/web", "deployment.apps/web"]
    created = "".join(f"{name} created\n" for name in ["namespace/shop", *names])
    assert run(capsys, "apply", "-f", "shop.yaml") == (0, created, "")
    address = kube_apiserver.kubectl("get", "svc", "web", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}")
    assert address.startswith("10.96."), "the server allocates"
    assert run(capsys, "get", "svc", "web", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}")[1].strip() == address

    kube_apiserver.kubectl("scale", "deploy", "web", "-n", "shop", "--replicas=4")
    kube_apiserver.kubectl("label", "netpol", "web", "-n", "shop", "theirs=1")
    kube_apiserver.kubectl("annotate", "netpol", "web", "-n", "shop", "theirs=1")
    before = kube_apiserver.kubectl("get", "svc,netpol,deploy", "-n", "shop", "-o", "json")
    unchanged = "".join(f"{name} unchanged\n" for name in ["namespace/shop", *names])
    assert run(capsys, "apply", "-f", "shop.yaml") == (0, unchanged, "")
    assert kube_apiserver.kubectl("get", "svc,netpol,deploy", "-n", "shop", "-o", "json") == before

    egress = ", egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]"
    (tmp_path / "shop.yaml").write_text((NAMESPACE + SHOP).replace(egress, ""))
    assert "networkpolicy.networking.k8s.io/web configured\n" in run(capsys, "apply", "-f", "shop.yaml")[1]
    policy = json.loads(kube_apiserver.kubectl("get", "netpol", "web", "-n", "shop", "-o", "json"))
    assert "egress" not in policy["spec"]
    assert policy["metadata"]["labels"] == {"a": "b", "theirs": "1"}
    assert policy["metadata"]["annotations"] == {"theirs": "1"}

    deleted = "".join(f"{name} deleted\n" for name in [*reversed(names), "namespace/shop"])
    assert run(capsys, "delete", "-f", "shop.yaml") == (0, deleted, "")
    assert run(capsys, "get", "svc,netpol,deploy", "-n", "shop", "-o", "name")[1].strip() == ""


def test_what_the_server_refuses_is_one_error_that_says_how_far_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = "{{apiVersion: v1, kind: Service, metadata: {{name: {}}}, spec: {{clusterIP: 10.96.7.7, ports: [{{port: 80}}]}}}}"
    (tmp_path / "a.yaml").write_text("\n---\n".join(map(service.format, ("first", "second"))))
    code, out, err = run(capsys, "apply", "-f", "a.yaml")
    assert (code, out) == (2, "service/first created\n")
    assert len(err.splitlines()) == 1
    assert "provided IP is already allocated" in err
    assert err.endswith("; 1 of 2 objects are applied; the same command goes on\n")
    assert run(capsys, "delete", "-f", "a.yaml")[1] == "service/second not there\nservice/first deleted\n"


def test_rights_that_lack(
    kube_apiserver: KubeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCALE_STORE", f"kubernetes:{kube_apiserver.kubeconfig('objects', AGENT)}")
    (tmp_path / "a.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: mine}}")
    lines = {
        "get netpol": "user percale may not list networkpolicies; give its role the verb list on networkpolicies",
        "apply -f a.yaml": "user percale may not get namespaces; give its role the verb get on namespaces",
        "delete ns default": "user percale may not get namespaces; give its role the verb get on namespaces",
    }
    for command, line in lines.items():
        code, out, err = run(capsys, *command.split())
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert line in err
