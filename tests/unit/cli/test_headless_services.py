"""Questions about a headless Service: the answer is a command that asks for a pod of it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.unit.cli.conftest import run as run_command

CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: n1, containers: [{name: c}]}
---"""
MANIFESTS = (
    CLIENT
    + """
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  selector: {matchLabels: {app: db}}
  serviceName: db
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: None, selector: {app: x}, ports: [{port: 80}]}
"""
)


@pytest.mark.parametrize("words", [("why",), ("service", "resolve"), ("service", "resolve", "--node", "n2")])
@pytest.mark.parametrize(
    ("port", "own"), [("pg", "5432"), ("5432", "5432"), ("5432/tcp", "5432/tcp"), ("53/udp", "53/udp")]
)
def test_it_names_a_pod_to_ask_for(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], port: str, own: str
) -> None:
    (here / "my cluster.yaml").write_text(MANIFESTS)
    code, lines = run_command(capsys, *words, "client", f"svc/db:{port}", "-f", "my cluster.yaml")
    verb, options = " ".join(words[:2]), "".join(f" {each}" for each in words[2:])
    command = f"percale {verb} default/client default/db-0:{own}{options} -f 'my cluster.yaml'"
    assert (code, len(lines)) == (2, 1)
    assert lines[0].endswith(f"; ask for a pod behind it: {command}")
    code, lines = run_command(capsys, *shlex.split(command)[1:])
    assert code == 0, lines


@pytest.mark.parametrize("words", [("why",), ("service", "resolve")])
def test_one_without_pods_says_so(here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    (here / "m.yaml").write_text(MANIFESTS)
    code, lines = run_command(capsys, *words, "client", "svc/nobody:80", "-f", "m.yaml")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].endswith("; no pod is behind it")
