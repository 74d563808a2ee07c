"""Installs Percale in a testbed as deploy/README.md says: its image on each node, deploy/percale.yaml, in place of kube-proxy."""

from __future__ import annotations

from pathlib import Path

import yaml
from tests.cluster.testbed.control_plane import kubectl
from tests.cluster.testbed.layout import API_SERVER, Layout, Node
from tests.cluster.testbed.node import import_image
from tests.cluster.testbed.processes import TestbedError, in_control_plane, run
from tests.waiting import until

_ROOT = Path(__file__).parents[3]
MANIFEST = _ROOT / "deploy/percale.yaml"
IMAGE = _ROOT / "dist/percale.tar"
_PATIENCE = 180.0


def install(layout: Layout) -> None:
    """Returns when an agent is ready on each node."""
    for node in layout.nodes:
        import_image(layout, node, IMAGE)
    until(lambda: all(_pod_cidr(layout, node) for node in layout.nodes), "every node has a podCIDR", patience=_PATIENCE)
    for node in layout.nodes:
        # The API server calls webhooks and aggregated servers in pods, and so do specs through its proxy.
        run([*in_control_plane(layout), "ip", "route", "replace", _pod_cidr(layout, node), "via", node.address])
    kubectl(layout, "apply", "-f", "-", stdin=manifest())
    wait = ("rollout", "status", "-n=percale", "daemonset/percale", f"--timeout={_PATIENCE:.0f}s")
    kubectl(layout, *wait, seconds=_PATIENCE + 10)


def manifest() -> str:
    """With what the README says about a cluster without kube-proxy."""
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    (settings,) = (each for each in documents if each["kind"] == "ConfigMap")
    agent = yaml.safe_load(settings["data"]["agent.yaml"])
    agent["services"]["enabled"] = True
    host, port = API_SERVER.removeprefix("https://").split(":")
    settings["data"] |= {"agent.yaml": yaml.safe_dump(agent), "apiServerHost": host, "apiServerPort": port}
    return yaml.safe_dump_all(documents)


def check() -> None:
    if not IMAGE.exists():
        raise TestbedError(f"no {IMAGE}; type: make image")


def _pod_cidr(layout: Layout, node: Node) -> str:
    return kubectl(layout, "get", "node", node.name, "--ignore-not-found", "-o", "jsonpath={.spec.podCIDR}")
