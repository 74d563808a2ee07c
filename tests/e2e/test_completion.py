"""Tab in a real bash: what `percale completion bash` makes of it, with a lab that runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person

WORLD = """\
apiVersion: percale.io/v1alpha1
kind: Lab
metadata: {name: small}
spec:
  segments: [{name: a}]
  nodes: [{name: n1, segment: a}, {name: n2, segment: a}]
  hosts: [{name: office, address: 172.17.0.9}]
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}
"""
TAB = """\
source <("$0" completion bash)
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMPREPLY=()
compopt() { echo "compopt $2"; }
_percale_completion percale
printf '%s\\n' "${COMPREPLY[@]}"
"""


def tab(person: Person, line: str, directory: Path = ROOT) -> list[str]:
    """What Tab offers at the end of this line; `compopt default` means the shell's own names of files."""
    environment = {**person.environment, "PATH": f"{PERCALE.parent}:{person.environment['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", TAB, PERCALE, *line.split(" ")],
        capture_output=True, text=True, cwd=directory, env=environment, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


def test_what_needs_no_lab(percale: Person) -> None:
    assert tab(percale, "percale ser") == ["service"]
    assert tab(percale, "percale policy ") == ["check", "test"]
    assert {"up", "down", "get"} <= set(tab(percale, "percale lab "))
    assert "--all-namespaces" in tab(percale, "percale lab get --a")
    assert tab(percale, "percale policy check --validate s") == ["strict"]
    assert tab(percale, "percale lab get networkp") == ["networkpolicies", "networkpolicy"]
    assert tab(percale, "percale get networkp") == ["networkpolicies", "networkpolicy"]
    assert tab(percale, "percale get pods ") == []  # a store may be far away: it is not asked
    for line in ("percale policy check ", "percale lab apply -f ", "percale matrix -f a --diff "):
        assert tab(percale, line) == ["compopt default"]
    for line in ("percale lab get pods ", "percale lab exec ", "percale why ", "percale lab down "):  # there is no lab
        assert tab(percale, line) == []


def test_what_a_lab_has(percale: Person, tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text(WORLD)
    percale("lab", "up", "-f", str(tmp_path / "world.yaml"), "--name", "small")
    assert tab(percale, "percale lab get --lab ") == tab(percale, "percale lab down ") == ["small"]
    assert tab(percale, "percale lab exec --lab small ") == ["client", "kube-system/dns", "shop/web"]
    assert tab(percale, "percale lab exec --lab small -n shop w") == ["web"]
    assert "shop" in tab(percale, "percale lab exec --lab small -n ")
    assert tab(percale, "percale lab node --lab small ") == ["n1", "n2"]
    assert tab(percale, "percale lab get --lab small pods c") == ["client"]
    assert tab(percale, "percale lab delete --lab small -n shop svc/") == ["svc/web"]
    assert {"client", "node/n1", "svc/shop/web"} <= set(tab(percale, "percale why --lab small "))
    assert tab(percale, "percale lab probe --lab small client svc/s") == ["svc/shop/web"]
    for line in ("probe --lab small ", "logs --lab small ", "tcpdump --lab small ", "watch --lab small --pod "):
        assert tab(percale, f"percale lab {line}ext") == ["external/office"]


@pytest.mark.parametrize(
    ("shell", "word"), [("zsh", "compdef _percale_completion percale"), ("fish", "complete --no-files")]
)
def test_other_shells(percale: Person, tmp_path: Path, shell: str, word: str) -> None:
    script = percale.out("completion", shell)
    assert word in script
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(script)
        subprocess.run([shell, "-n", file], check=True, timeout=60)
