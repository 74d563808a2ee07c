"""docs/install.md with Kubernetes: what it types with kubectl, on a real API server, in the page's order.

No kubelets are here, so nothing is waited for and nothing is executed in pods; test_installation.py runs what is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.cluster.api_server import KubeApiServer, program
from tests.page_commands import blocks

from percale.agent.config import loader

ROOT = Path(__file__).parents[2]
KUBECTL = """\
kubectl() {{
  case "$*" in *"rollout status"* | *" exec "*) return 0 ;; esac
  case "$*" in *delete*) set -- "$@" --wait=false ;; esac
  {program} --kubeconfig {kubeconfig} "$@"
}}
cd {root}
set -o pipefail
"""
OTHERS = (("kube-system", "kube-proxy"), ("kube-system", "canal"), ("kube-flannel", "kube-flannel-ds"))


def test_every_step(kube_apiserver: KubeApiServer, tmp_path: Path) -> None:
    kube_apiserver.kubectl("create", "namespace", "kube-flannel")
    for namespace, name in OTHERS:
        kube_apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(daemon_set(namespace, name)))
    shell = KUBECTL.format(program=program("kubectl"), kubeconfig=kube_apiserver.kubeconfig("admin"), root=ROOT)
    configurations = set()
    try:
        for step in blocks("kubectl"):
            done = subprocess.run(
                ["bash", "-ec", shell + step], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, f"{step}\n{done.stderr}"
            configurations.add(configuration(kube_apiserver, tmp_path))
        left = kube_apiserver.kubectl("get", "daemonsets", "-A", "-o", "name").split()
        assert left == [], "each of them is replaced by some step"
        # As installed, in place of kube-proxy, policies alone.
        assert configurations >= {("network", False), ("network", True), ("none", True)}
    finally:
        kube_apiserver.kubectl("delete", "namespace", "percale", "kube-flannel", "--wait=false", "--ignore-not-found")


def configuration(server: KubeApiServer, tmp_path: Path) -> tuple[str, bool] | None:
    """Backend and whether Services are Percale's, as an agent reads the ConfigMap."""
    text = server.kubectl(
        "-n", "percale", "get", "cm", "percale", "--ignore-not-found", "-o", r"jsonpath={.data.agent\.yaml}"
    )
    if not text:
        return None
    (tmp_path / "agent.yaml").write_text(text)
    config = loader.load(tmp_path / "agent.yaml", {}, {})
    return config.backend, config.services.enabled


def daemon_set(namespace: str, name: str) -> dict[str, object]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def test_a_cluster_by_kubeadm_has_the_pod_network_and_kube_proxy_or_not(tmp_path: Path) -> None:
    """In a namespace with an address; nothing is started."""
    options = (
        "--dry-run --ignore-preflight-errors=all --kubernetes-version=v1.36.3 --apiserver-advertise-address=192.0.2.1"
    )
    address = "ip link set lo up; ip link add eth0 type bridge; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up"
    environment = {**os.environ, "KUBEADM_INIT_DRYRUN_DIR": str(tmp_path)}
    shell = f'kubeadm() {{ {program("kubeadm")} "$@" {options}; }}\n{address}\n'
    steps = blocks("kubeadm")
    assert len(steps) == 2
    for step, has_kube_proxy in zip(steps, (True, False), strict=True):
        done = subprocess.run(
            ["unshare", "--net", "bash", "-ec", shell + step],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "--allocate-node-cidrs=true" in done.stdout
        assert "--cluster-cidr=10.244.0.0/16" in done.stdout
        assert ("kind: DaemonSet" in done.stdout and "name: kube-proxy" in done.stdout) is has_kube_proxy


def test_what_kube_proxy_leaves_is_removed_and_nothing_else() -> None:
    (step,) = blocks("kube-proxy")
    rules = "\n".join(
        f"{command} -t nat -N KUBE-SERVICES; {command} -t nat -A OUTPUT -j KUBE-SERVICES; {command} -A INPUT -j ACCEPT"
        f"\nnft add table {family} kube-proxy"
        for command, family in (("iptables", "ip"), ("ip6tables", "ip6"))
    )
    look = "iptables-save; ip6tables-save; nft list tables"
    done = subprocess.run(
        ["unshare", "--net", "bash", "-ec", f"{rules}\n{step}\n{look}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "KUBE" not in done.stdout
    assert "kube-proxy" not in done.stdout
    assert done.stdout.count("-A INPUT -j ACCEPT") == 2


@pytest.mark.parametrize("path", sorted(set(re.findall(r"deploy/[\w./-]+", (ROOT / "docs/install.md").read_text()))))
def test_every_file_that_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path.rstrip(".")).exists()
