"""The chart as the real helm reads it: the same objects as deploy/'s manifests, values that are checked, an installation."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.generate import MANIFESTS
from tests.cluster.api_server import KubeApiServer, program
from tests.page_commands import blocks

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart"
NAMESPACED = ("configmap", "daemonset", "serviceaccount")
CLUSTER_WIDE = ("clusterrole", "clusterrolebinding")


def helm(*arguments: str, home: Path, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """With caches of its own."""
    environment = {**os.environ, "HOME": str(home)} | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    command = [str(program("helm")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=60)


def rendered(home: Path, *arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "percale", str(CHART), "--namespace", "percale", *arguments, home=home)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def by_name(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))


def test_lint(tmp_path: Path) -> None:
    done = helm("lint", "--strict", str(CHART), home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("name", MANIFESTS)
def test_helm_makes_the_objects_of_the_manifests(name: str, tmp_path: Path) -> None:
    manifest = MANIFESTS[name]
    only = [word for each in manifest.templates for word in ("--show-only", f"templates/{each}.yaml")]
    changed = [word for key, value in manifest.changed.items() for word in ("--set-json", f"{key}={json.dumps(value)}")]
    written = list(yaml.safe_load_all((ROOT / "deploy" / name).read_text()))
    assert by_name(rendered(tmp_path, *only, *changed)) == by_name(written)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("agent.services.enable=true", "'enable' not allowed"),
        ("imagee=x", "'imagee' not allowed"),
        ("agent.cni.wiring=odd", "must be one of 'bridge', 'routed'"),
        ("agent.services.enabled=maybe", "want boolean"),
        ("agent.http=here", "does not match pattern"),
        ("hostDirectories.bin=/opt", "'bin' not allowed"),
        ("cleanup=1", "want boolean"),
    ],
)
def test_values_that_there_are_not(given: str, said: str, tmp_path: Path) -> None:
    done = helm("template", str(CHART), "--set", given, home=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


def test_from_install_to_uninstall(kube_apiserver: KubeApiServer, tmp_path: Path) -> None:
    kubeconfig = kube_apiserver.kubeconfig("admin")
    (typed,) = blocks("helm", ROOT / "deploy/README.md")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("helm", "kubectl"):
        (programs / name).symlink_to(program(name))
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)}
    environment["PATH"] = f"{programs}:{environment['PATH']}"

    def upgrade(*words: str) -> dict[str, Any]:
        """The DaemonSet then."""
        line = ("upgrade", "--namespace", "percale", "percale", str(CHART), *words)
        done = helm(*line, home=tmp_path, kubeconfig=kubeconfig)
        assert done.returncode == 0, done.stderr
        found = kube_apiserver.kubectl("get", "-n", "percale", "daemonset", "percale", "-o", "json")
        return dict(json.loads(found)["spec"]["template"])

    try:
        done = subprocess.run(
            ["bash", "-ec", typed], capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=60
        )
        assert done.returncode == 0, done.stderr
        before = upgrade("--reuse-values")
        after = upgrade(
            "--reuse-values", "--set=agent.services.enabled=true,apiServer.host=192.0.2.10,apiServer.port=6444"
        )
        assert before["spec"] == after["spec"]
        assert before["metadata"] != after["metadata"], "changed settings are a new agent"
        data = json.loads(kube_apiserver.kubectl("get", "-n", "percale", "configmap", "percale", "-o", "json"))["data"]
        assert (data["apiServerHost"], data["apiServerPort"]) == ("192.0.2.10", "6444")
        cleanup = upgrade("--reuse-values", "--set=cleanup=true")["spec"]
        assert cleanup["initContainers"][0]["args"] == ["agent", "--cleanup"]
        done = helm("uninstall", "--namespace", "percale", "percale", home=tmp_path, kubeconfig=kubeconfig)
        assert done.returncode == 0, done.stderr
        for kind in NAMESPACED:
            left = kube_apiserver.kubectl("get", "-n", "percale", kind, "-o", "name").split()
            assert not [each for each in left if each.endswith("/percale")], left
        for kind in CLUSTER_WIDE:
            assert kube_apiserver.kubectl("get", kind, "percale", "--ignore-not-found") == ""
    finally:
        kube_apiserver.kubectl("delete", "namespace", "percale", "--wait=false", "--ignore-not-found")
