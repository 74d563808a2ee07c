"""`percale why` of pods without an address, where the pod network is known: addresses outside of it are not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run as run_command

POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec: {%scontainers: [{name: c}]}
---"""
PODS = "".join(
    POD % (name, name, where)
    for name, where in (
        ("client", ""),
        ("on-n2", "nodeName: n2, "),
        ("host", "nodeName: n1, hostNetwork: true, "),
        ("host-anywhere", "hostNetwork: true, "),
        ("server", ""),
    )
)
NODE = """
apiVersion: v1
kind: Node
metadata: {name: %s}
spec: {podCIDRs: [%s]}
status: {addresses: [{type: InternalIP, address: 192.168.0.%d}]}
---"""
NODES = NODE % ("n1", "10.42.1.0/24", 1) + NODE % ("n2", "10.42.2.0/24", 2)
FLANNEL = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-flannel-cfg, namespace: kube-flannel}
data: {net-conf.json: '{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}'}
---"""
LAB = """
apiVersion: percale.io/v1alpha1
kind: Lab
metadata: {name: l}
spec: {network: {Network: 10.42.0.0/16}}
---"""
FROM = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: %s}]}]}
"""


@pytest.mark.parametrize(
    ("facts", "client", "block", "verdict"),
    [
        *((facts, "client", "{cidr: 192.168.0.0/16}", "denied") for facts in (NODES, FLANNEL, LAB)),
        *((facts, "client", "{cidr: 10.42.0.0/16}", "allowed") for facts in (NODES, FLANNEL, LAB)),
        ("", "client", "{cidr: 192.168.0.0/16}", "cannot tell"),
        (NODE % ("n1", "10.42.1.0/24", 1) + NODE % ("n2", "", 2), "client", "{cidr: 192.168.0.0/16}", "cannot tell"),
        (NODES, "client", "{cidr: 10.42.2.0/24}", "cannot tell"),  # it may come onto either node
        (NODES, "on-n2", "{cidr: 10.42.2.0/24}", "allowed"),
        (NODES, "on-n2", "{cidr: 10.42.1.0/24}", "denied"),
        (FLANNEL, "client", "{cidr: 0.0.0.0/0, except: [10.42.0.0/16]}", "denied"),
        (FLANNEL, "client", "{cidr: 0.0.0.0/0, except: [10.0.0.0/16]}", "allowed"),
        (FLANNEL, "client", "{cidr: 10.42.0.0/17}", "cannot tell"),
        (NODES, "host", "{cidr: 192.168.0.1/32}", "allowed"),
        (NODES, "host", "{cidr: 10.42.0.0/16}", "denied"),
    ],
)
def test_what_the_pod_network_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: str, client: str, block: str, verdict: str
) -> None:
    (tmp_path / "m.yaml").write_text(facts + PODS + FROM % block)
    code, lines = run_command(capsys, "why", client, "server", "80", "-f", str(tmp_path / "m.yaml"))
    assert lines[0].startswith(f"{verdict}: ")
    assert code == {"allowed": 0, "denied": 1, "cannot tell": 2}[verdict]


def test_a_pod_in_the_network_of_a_node_that_nobody_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for facts, hint in ((NODES, "ask for its node, such as node/n1"), ("", "its Node is not there")):
        (tmp_path / "m.yaml").write_text(facts + PODS)
        code, lines = run_command(capsys, "why", "host-anywhere", "server", "80", "-f", str(tmp_path / "m.yaml"))
        said = f"percale: pod default/host-anywhere has its node's address, and no node that is known; {hint}"
        assert (code, lines) == (2, [said])


@pytest.mark.parametrize(
    ("facts", "block", "what"),
    [
        (FLANNEL, "{cidr: 192.168.0.0/16}", "it allows 192.168.0.0/16, an address of 10.42.0.0/16 is not in it"),
        (NODES, "{cidr: 192.168.0.0/16}", "it allows 192.168.0.0/16, its address is not in it"),
        (
            FLANNEL,
            "{cidr: 0.0.0.0/0, except: [10.42.0.0/16]}",
            "an address of 10.42.0.0/16 is in the except 10.42.0.0/16 of 0.0.0.0/0",
        ),
    ],
)
def test_an_address_that_is_made_up_is_not_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: str, block: str, what: str
) -> None:
    (tmp_path / "m.yaml").write_text(facts + PODS + FROM % block)
    _, lines = run_command(capsys, "why", "client", "server", "80", "-f", str(tmp_path / "m.yaml"))
    assert [line.split("): ", 1)[1] for line in lines if line.startswith("  nearest")] == [what]
