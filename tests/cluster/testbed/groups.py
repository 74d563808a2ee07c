"""What `make conformance` runs: groups of suites, those with the same layout in one testbed, and why specs are in none."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.cluster.testbed.processes import TestbedError
from tests.cluster.testbed.suite import Selection


@dataclass(frozen=True)
class Group:
    title: str
    suites: Mapping[str, Selection]
    network: str = "vxlan"
    """One of networks.NETWORKS."""
    stack: str = "ipv4"
    """One of layout.FAMILIES."""
    nodes: int = 3
    cluster_policies: bool = False
    """The conformance suite of ClusterNetworkPolicy, too."""
    load_balancer: bool = False
    """See load_balancer.py."""
    measured: bool = False
    """See measurements.py."""
    disturbance: str | None = None
    """One of disturbances.DISTURBANCES, while the suites and a steady traffic run."""


ALL = Selection(r"\[sig-network\]")
_CONFORMANCE = {"Conformance": Selection(r"\[sig-network\].*\[Conformance\]")}
_SIX_NODES = "Traffic Distribution"

GROUPS: Mapping[str, Group] = {
    "default": Group(
        "vxlan",
        {
            **_CONFORMANCE,
            "NetworkPolicy": Selection(r"\[Feature:NetworkPolicy\]", ("SCTPConnectivity",)),
            "others of [sig-network]": Selection(
                r"\[sig-network\]",
                (r"\[Conformance\]", "Feature:", r"\[Serial\]", r"\[Disruptive\]", "Provider:GCE", _SIX_NODES),
            ),
            "serial ones": Selection(r"\[sig-network\].*\[Serial\]", ("DNS configMap", "PerformanceDNS"), serial=True),
        },
    ),
    "killed": Group("vxlan, an agent killed every 5 s", _CONFORMANCE, disturbance="killed"),
    "rolling": Group("vxlan, one rolling update after the other", _CONFORMANCE, disturbance="rolling"),
    "no-api-server": Group("vxlan, no API server for a minute", {}, disturbance="no-api-server"),
    "etcd": Group("vxlan, etcd killed and started again", {}, disturbance="etcd"),
    "flapping": Group("vxlan, the link of a node goes and comes", {}, disturbance="flapping"),
    "deleted": Group("vxlan, everything of Percale deleted by hand in turn", {}, disturbance="deleted"),
    "six-nodes": Group("vxlan, 6 nodes", {"Traffic Distribution": Selection(_SIX_NODES)}, nodes=6),
    "dual-stack": Group(
        "vxlan, IPv4 and IPv6", {"dual stack": Selection("IPv6DualStack", ("SCTPConnectivity",))}, stack="dual"
    ),
    "ipv6": Group("vxlan, IPv6 only", _CONFORMANCE, stack="ipv6"),
    "host-gw": Group("host-gw", _CONFORMANCE, network="host-gw"),
    "direct": Group("vxlan with DirectRouting", _CONFORMANCE, network="direct"),
    "policies": Group(
        "policies only, over the reference plugins and kube-proxy",
        {**_CONFORMANCE, "NetworkPolicy": Selection(r"\[Feature:NetworkPolicy\]", ("SCTPConnectivity",))},
        network="policies",
    ),
    "canal": Group("policies only, over flannel and kube-proxy", _CONFORMANCE, network="canal"),
    "udp": Group("udp", _CONFORMANCE, network="udp"),
    "bgp": Group("bgp", _CONFORMANCE, network="bgp"),
    "cluster-policies": Group("vxlan", {}, cluster_policies=True),
    "load-balancer": Group(
        "vxlan, a load balancer of the testbed's own",
        {"LoadBalancer": Selection("Feature:LoadBalancer")},
        load_balancer=True,
    ),
    "percale": Group("vxlan", {}, measured=True),
    "others": Group("flannel by vxlan, kube-proxy and kube-router", {}, network="others", measured=True),
}

SHORT: Mapping[str, Group] = {
    "short": Group(
        "vxlan, a part of five minutes",
        {
            "pods and Services": Selection(
                r"Granular Checks: Pods|should create a functioning NodePort service|should have session affinity work"
                r"|should serve multiport endpoints|DNS should provide DNS for services",
                ("SCTP", r"\[Feature:", "LoadBalancer"),
            ),
            "NetworkPolicy": Selection(
                r"Netpol NetworkPolicy between server and client should .*(default-deny|egress|Ports|CIDR)", ("SCTP",)
            ),
        },
    )
}
"""For a machine that checks each change; on no page."""

_REASONS = {
    "SCTPConnectivity": "the machine's kernel has no SCTP",
    "Feature:Networking-(IPv4|IPv6|DNS)": "needs the internet",
    "KubeProxyNFAcct": "about kube-proxy's own counters in iptables",
    "Networking-Performance|PerformanceDNS": "a measurement, without a limit that a network could miss",
    "Provider:GCE": "about another provider's machines",
    "Disruptive": "ends programs of the nodes over SSH, which the testbed's nodes don't have",
    "DNS configMap": "about the DNS server's configuration",
}
"""Why specs are in none of the groups: what their names have, the first that is found."""


def left_out(names: Iterable[str]) -> dict[str, list[str]]:
    """The specs that are in no group, by why; one without a reason is an error."""
    chosen = [selection for group in GROUPS.values() for selection in group.suites.values()]
    found = defaultdict(list)
    for name in names:
        if any(selection.has(name) for selection in chosen):
            continue
        reason = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, name)), None)
        if reason is None:
            raise TestbedError(f"no reason is known why this spec is not run: {name}")
        found[reason].append(name)
    return found
