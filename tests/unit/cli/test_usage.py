"""What commands say of arguments that do not go together, and of names that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run

PODS = """\
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}, spec: {containers: [
  {name: c, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 5353, protocol: UDP}]}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--lab x status", "percale status knows no labs; a lab's: percale lab status --lab x"),
        ("--lab x policy check a.yaml", "percale policy check knows no labs"),
        ("matrix -f a.yaml --diff a.yaml -o svg", "--diff goes with -o table, json or csv"),
        (
            "matrix -f a.yaml --port 80/icmp",
            "'80/icmp' is not a port; write 80, 80/tcp, 53/udp, 80/sctp, a port's name, or icmp",
        ),
        ("matrix -f a.yaml --port 65536", "65536 is not a port; ports are 1 to 65535"),
        ("matrix -f a.yaml --port htp", "--port: no pod has a port named htp; they name http, dns"),
        ("matrix -f a.yaml -n shpo", "no pods in namespace shpo; there are shop"),
        ("matrix -f none.yaml", "no pods and no workloads; give the manifests of the workloads too, with another -f"),
        ("service resolve", "give FROM, TO and PORT, or --batch FILE"),
        ("service resolve -f a.yaml shop/a 10.96.0.1 80 --batch b", "give FROM, TO and PORT or --batch FILE, not both"),
        ("service resolve -f a.yaml shop/a 10.96.0.1 icmp", "ICMP has no port, and goes to no Service"),
        ("service resolve -f a.yaml 10.244.1.2 fd00::1 80", "10.244.1.2 and fd00::1 have no address family in common"),
        (
            "service resolve -f a.yaml 10.244.1.2 10.96.0.1 80",
            "10.244.1.2 is on no node, so a packet of it may be seen on any; name one by --node: n1, n2",
        ),
    ],
)
def test_a_command_that_cannot_be_is_2_and_says_why(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    (here / "a.yaml").write_text(PODS)
    (here / "none.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n")
    code, lines = run(capsys, *command.split())
    assert code == 2
    assert said in lines[-1]


def test_a_name_of_a_port_means_every_pods_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(PODS)
    code, lines = run(capsys, "matrix", "-f", "a.yaml", "--port", "dns", "--port", "http/tcp", "-o", "csv")
    assert code == 0
    assert "shop/a,shop/b,TCP 80; UDP 5353,false" in lines
