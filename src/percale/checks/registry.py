"""All checks, in the order in which they are shown. A new one is a function in its module and a line here."""

from __future__ import annotations

from percale.checks import (
    agent,
    clock,
    filters,
    kernel_features,
    lab,
    leases,
    limits,
    node_state,
    others,
    peers,
    services,
    sysctls,
    underlay,
)
from percale.checks.check import Check

_NO_PODS = "pods are not attached: ADD fails"
_NOT_ACROSS = "pods of other nodes are not reached"
_POLICIES = "policies and Services are not enforced"

FEATURES = (
    Check("kernel", "features of newer kernels are missing, with the errors below", kernel_features.version),
    Check("veth", _NO_PODS, kernel_features.veth),
    Check("bridge", _NO_PODS, kernel_features.bridge),
    Check("vxlan", _NOT_ACROSS, kernel_features.vxlan),
    Check("tun", _NOT_ACROSS, kernel_features.tun),
    Check("ipip", _NOT_ACROSS, kernel_features.ipip),
    Check("wireguard", _NOT_ACROSS, kernel_features.wireguard),
    Check("bird", _NOT_ACROSS, kernel_features.bird),
    Check("nftables", _POLICIES, kernel_features.nftables),
    Check("conntrack", "answers are dropped, Services are not translated", kernel_features.conntrack),
    Check("ipv6", "pods have no IPv6 address", kernel_features.ipv6),
)
"""What the kernel must be able to do: an agent that is ready has found it so."""

HOST = (
    Check("bridge-netfilter", "policies do not see packets between pods of one node", sysctls.bridge_netfilter),
    Check(
        "forwarding",
        "pods reach nothing beyond their node while it is off; the agent sets it",
        sysctls.forwarding,
    ),
    Check(
        "rp-filter",
        "what comes back by another interface is dropped (TcpExt:IPReversePathFilter)",
        sysctls.reverse_path,
    ),
    Check("interface", "the agent does not know how other nodes reach this one, and waits", underlay.interface),
    Check("mtu", "small packets pass, large ones hang", underlay.mtu),
    Check("tunnel-port", "the tunnel's device cannot be made", underlay.tunnel_port),
    Check("tunnel-filter", _NOT_ACROSS, filters.tunnel),
    Check("pod-filter", "pods reach nothing beyond their node", filters.pods),
    Check("cni-configuration", "pods are attached by another plugin", others.cni_configuration),
    Check("loopback-plugin", "no pod is started, with any network", others.loopback_plugin),
    Check("networks", "two agents undo each other's routes and rules", others.networks),
    Check(
        "kube-proxy", "connections to Services are translated twice, or by the other one's endpoints", others.kube_proxy
    ),
    Check("xtables-lock", "programs that use iptables (kube-proxy, Docker) change no rule", others.xtables_lock),
    Check("ports", "load balancers and probes ask another program", others.ports),
    Check("address-ranges", "packets for pods or Services go to other machines, or theirs to pods", leases.ranges),
    Check("clock", "certificates are refused, leases end too early", clock.clock),
)
"""What else a node needs, before and after."""

NODE = (*FEATURES, *HOST)
"""What is checked before an agent is installed."""

RUNNING = (
    Check("agent", "nothing new gets a route, a rule or an address; what is there goes on", agent.answers),
    Check("agent-problems", "the agent cannot do something that it is asked for", agent.problems),
    Check("store", "new pods, policies and Services of the cluster are not seen", agent.store),
    Check("conflist", "the container runtime attaches no pod", agent.conflist),
    Check("subnet-file", "docker and others do not know this node's subnet", agent.subnet_file),
    Check("tables", "policies, Services and masquerading do nothing", node_state.tables),
    Check("leases", "two nodes take each other's packets", leases.conflicts),
    Check("peers", _NOT_ACROSS, peers.reached),
    Check("peer-routes", "packets between nodes take another network, or are lost", peers.routes),
    Check("large-packets", "small packets pass, large ones hang", peers.large_packets),
    Check("peer-entries", _NOT_ACROSS, peers.entries),
    Check("pod-devices", "a pod is not reached, or its large packets hang", node_state.pod_devices),
    Check("leaked-addresses", "new pods get no address in the end", node_state.leaked_addresses),
    Check("endpoints", "connections to a Service are refused", services.endpoints),
    Check("conntrack-table", "new connections time out at times", limits.conntrack),
    Check("conntrack-clashes", "names are resolved after 5 s at times", limits.clashes),
    Check("neighbour-table", "new neighbours are not reached at times", limits.neighbours),
)
"""Of a node whose agent is to run."""

LAB = (Check("user-namespaces", "`percale lab up` cannot start as this user", lab.user_namespaces),)
"""What a lab needs beyond."""
