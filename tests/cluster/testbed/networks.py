"""What connects a testbed's pods, carries its Services and enforces its policies: Percale, or Percale beside others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.testbed import other_networks
from tests.cluster.testbed.layout import Layout


@dataclass(frozen=True)
class Network:
    title: str
    backend: Mapping[str, Any] = field(default_factory=dict)
    """Of net-conf.json."""
    plugin: Callable[[Layout], None] | None = None
    """Starts another network, which attaches the pods."""
    kube_proxy: bool = False
    percale: bool = True
    others: tuple[str, ...] = ()
    """Programs whose version is in the name of the file that they are a link to (scripts/kubernetes-binaries)."""

    def agent_settings(self) -> dict[str, Any]:
        """What differs from the manifest's agent.yaml."""
        attached = {"backend": "none"} if self.plugin is not None else {}
        return {**attached, "services": {"enabled": not self.kube_proxy}}


NETWORKS = {
    "vxlan": Network("vxlan", {"Type": "vxlan"}),
    "host-gw": Network("host-gw", {"Type": "host-gw"}),
    "direct": Network("vxlan with DirectRouting", {"Type": "vxlan", "DirectRouting": True}),
    "udp": Network("udp", {"Type": "udp"}),
    "bgp": Network("bgp", {"Type": "bgp"}),
    "policies": Network("policies only, over the reference plugins", plugin=other_networks.bridge, kube_proxy=True),
    "others": Network(
        "flannel, kube-proxy and kube-router",
        plugin=other_networks.with_policies,
        kube_proxy=True,
        percale=False,
        others=("flanneld", "kube-router"),
    ),
    "canal": Network(
        "policies only, over flannel", plugin=other_networks.flannel, kube_proxy=True, others=("flanneld",)
    ),
}
