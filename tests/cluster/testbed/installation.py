"""Installs Percale in a testbed as deploy/README.md says: its image on each node, and deploy/percale.yaml.

It is in place of kube-proxy and of any other network, or beside them as the layout's network says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.testbed import other_networks
from tests.cluster.testbed.control_plane import kubectl, pod_cidrs
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.networks import NETWORKS
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
    until(lambda: all(pod_cidrs(layout, node) for node in layout.nodes), "every node has podCIDRs", patience=_PATIENCE)
    for node in layout.nodes:
        # The API server calls webhooks and aggregated servers in pods, and so do specs through its proxy.
        for cidr, address in zip(pod_cidrs(layout, node), node.addresses, strict=True):
            run([*in_control_plane(layout), "ip", "route", "replace", cidr, "via", address])
    network = NETWORKS[layout.network]
    if network.plugin is not None:
        network.plugin(layout)
    if network.kube_proxy:
        other_networks.kube_proxy(layout)
    if not network.percale:
        return
    kubectl(layout, "apply", "-f", "-", stdin=manifest(layout))
    wait = ("rollout", "status", "-n=percale", "daemonset/percale", f"--timeout={_PATIENCE:.0f}s")
    kubectl(layout, *wait, seconds=_PATIENCE + 10)


def manifest(layout: Layout) -> str:
    """With what the README says about a cluster without kube-proxy, and the cluster's networks."""
    chosen = NETWORKS[layout.network]
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    (settings,) = (each for each in documents if each["kind"] == "ConfigMap")
    agent = yaml.safe_load(settings["data"]["agent.yaml"]) | chosen.agent_settings()
    network: dict[str, Any] = {"Backend": chosen.backend}
    for version, name in ((4, "Network"), (6, "IPv6Network")):
        pods = next((family.pods for family in layout.families if family.version == version), None)
        network |= {f"EnableIPv{version}": pods is not None, **({name: pods} if pods is not None else {})}
    settings["data"] |= {"agent.yaml": yaml.safe_dump(agent), "net-conf.json": json.dumps(network)}
    if not chosen.kube_proxy:
        settings["data"] |= {"apiServerHost": layout.control_plane, "apiServerPort": "6443"}
    return yaml.safe_dump_all(documents)


def check() -> None:
    if not IMAGE.exists():
        raise TestbedError(f"no {IMAGE}; type: make image")
