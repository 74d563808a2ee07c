"""Rules with domainNames by a real agent: its node's resolver says which addresses they mean."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import Cluster, Pod, sh
from tests.waiting import until

from percale.kernel import syscalls

HOSTS = "127.0.0.1 localhost\n192.168.0.250 docs.example.org\n192.168.0.251 wiki.example.org\n"
"""The names, as the node's resolver knows them; both addresses are the switch's."""

POLICY = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{}}}}
  egress:
  - {{action: Accept, to: [{{domainNames: [{names}]}}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[None]:
    """In the mount namespace that the tests have of their own."""
    (tmp_path / "hosts").write_text(HOSTS)
    syscalls.mount(str(tmp_path / "hosts"), "/etc/hosts", None, syscalls.MS_BIND)
    yield
    subprocess.run(["umount", "/etc/hosts"], check=True)


def opens(pod: Pod, *addresses: str) -> bool:
    """Exactly these of the two."""
    return all(pod.reaches(address) == (address in addresses) for address in ("192.168.0.250", "192.168.0.251"))


def test_a_rule_means_what_its_names_resolve_to(cluster: Cluster, hosts: None) -> None:
    for number in (250, 251):
        sh("switch", "ip", "address", "add", f"192.168.0.{number}/24", "dev", "br0")
    sh("switch", "ip", "route", "add", "10.244.0.0/16", "via", "192.168.0.1")
    policy = cluster.store / "names.yaml"
    policy.write_text(POLICY.format(names="docs.example.org"))
    node = cluster.node(1).start()
    (cluster.store / "a.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: default}, spec: {nodeName: n1, containers: [{name: c}]}}"
    )
    pod = node.pod("a")
    until(lambda: opens(pod, "192.168.0.250"), "only the first name's address is open")
    policy.write_text(POLICY.format(names="wiki.example.org, '*.example.org'"))
    until(lambda: opens(pod, "192.168.0.251"), "only the second name's address is open")
    policy.write_text(POLICY.format(names="docs.example.org, wiki.example.org"))
    until(lambda: opens(pod, "192.168.0.250", "192.168.0.251"), "both are open")
