"""Policies that are not enforced: every command that reads them says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import CASE, percale

DOCUMENTS = """\
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: a}, spec: {selector: "app == 'x'"}}
---
{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, metadata: {name: a}}
---
{apiVersion: networking.k8s.io/v1, kind: networkpolicy, metadata: {name: a}}
---
{apiVersion: v1, kind: Secret, metadata: {name: a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}
"""
NAMED = [
    "p.yaml:1: CiliumNetworkPolicy of cilium.io/v2 is not enforced by Percale, left out",
    "p.yaml:3: NetworkPolicy of projectcalico.org/v3 has another schema than that of networking.k8s.io/v1"
    " and is not enforced by Percale, left out",
    "p.yaml:5: AdminNetworkPolicy of policy.networking.k8s.io/v1alpha1 is not enforced by Percale, left out;"
    " ClusterNetworkPolicy replaces it",
    "p.yaml:7: networkpolicy of networking.k8s.io/v1 is no kind, left out; did you mean NetworkPolicy?",
]


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    (here / "p.yaml").write_text(DOCUMENTS)
    (here / "case.yaml").write_text(CASE)


@pytest.mark.parametrize(
    "command",
    ["matrix -f p.yaml", "matrix -f p.yaml --diff p.yaml", "why -f p.yaml a 1.1.1.1 80", "policy test case.yaml"],
)
def test_each_is_named_once_on_stderr(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert percale(*command.split()) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "p.yaml" in line] == [
        f"warning: {line}" for line in NAMED
    ]


@pytest.mark.parametrize(
    "command", ["service list -f p.yaml", "service resolve -f p.yaml a 1.1.1.1 80", "service check p.yaml"]
)
def test_services_have_nothing_to_do_with_policies(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert percale(*command.split()) == 0
    lines = capsys.readouterr()
    (named,) = [line for line in (lines.out + lines.err).splitlines() if "p.yaml" in line]
    assert "p.yaml:7: " in named
    assert "did you mean NetworkPolicy?" in named


def test_check_warns_of_them_and_strict_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert percale("policy", "check", "p.yaml") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("p.yaml:1: warning: CiliumNetworkPolicy of cilium.io/v2: is not enforced by Percale, left out")
    assert lines[3].endswith(
        "networkpolicy of networking.k8s.io/v1: is no kind, left out (did you mean NetworkPolicy?)"
    )
    assert lines[4:] == ["0 policies: 0 errors, 4 warnings"]
    assert percale("policy", "check", "--strict", "p.yaml") == 1


@pytest.mark.parametrize("command", ["policy check", "service check"])
def test_nothing_to_check_is_an_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.yaml").write_text("# rendered without values\n---\n")
    assert percale(*command.split(), "empty.yaml") == 1
    assert capsys.readouterr().out.splitlines()[0] == "empty.yaml: no objects in there"
    assert percale(*command.split(), "empty.yaml", "p.yaml") == 0


@pytest.mark.parametrize("kind", ["NetworkPolicies", "networkpolicies"])
def test_a_plural_is_a_misspelt_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.yaml").write_text(f"{{apiVersion: networking.k8s.io/v1, kind: {kind}, metadata: {{name: a}}}}\n")
    assert percale("policy", "check", "--strict", "p.yaml") == 1
    assert "is no kind, left out (did you mean NetworkPolicy?)" in capsys.readouterr().out


def test_pods_that_nothing_makes_here_are_named_by_an_answer_about_pods(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no fault of the manifests, so a strict check takes them."""
    old = "{apiVersion: v1, kind: ReplicationController, metadata: {name: a}}"
    Path("p.yaml").write_text(f"{DOCUMENTS.rpartition('---')[2]}---\n{old}\n")
    for command in ("matrix -f p.yaml", "why -f p.yaml a 1.1.1.1 80"):
        assert percale(*command.split()) == 0
        assert "p.yaml:4: ReplicationController of v1 makes no pods here, left out" in capsys.readouterr().err
    assert percale("policy", "check", "--strict", "p.yaml") == 0
