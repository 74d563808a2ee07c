"""All checks, in the order in which they are shown. A new one is a function in its module and a line here."""

from __future__ import annotations

from percale.checks import filters, kernel_features, lab, others, settings, underlay
from percale.checks.check import Check

_NO_PODS = "pods are not attached: ADD fails"
_NOT_ACROSS = "pods of other nodes are not reached"
_POLICIES = "policies and Services are not enforced"

NODE = (
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
    Check("bridge-netfilter", "policies do not see packets between pods of one node", settings.bridge_netfilter),
    Check(
        "forwarding",
        "pods reach nothing beyond their node while it is off; the agent sets it",
        settings.forwarding,
    ),
    Check(
        "rp-filter",
        "what comes back by another interface is dropped (TcpExt:IPReversePathFilter)",
        settings.reverse_path,
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
    Check("ports", "load balancers and probes ask another program", others.ports),
    Check("clock", "certificates are refused, leases end too early", settings.clock),
)
"""What a node needs."""

LAB = (Check("user-namespaces", "`percale lab up` cannot start as this user", lab.user_namespaces),)
"""What a lab needs beyond."""
