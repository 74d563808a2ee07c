"""Networks of others in a testbed: the reference plugins with routes between the nodes, flannel; kube-proxy, kube-router."""

from __future__ import annotations

import json

from tests.cluster.flannel import PLUGIN
from tests.cluster.testbed.control_plane import pod_cidrs
from tests.cluster.testbed.layout import Layout, Node
from tests.cluster.testbed.processes import in_node, run, start
from tests.waiting import until

_PATIENCE = 60.0
_PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def bridge(layout: Layout) -> None:
    """bridge, host-local and portmap; each node has routes to the others' pods."""
    for node in layout.nodes:
        for other in layout.nodes:
            for cidr, address in zip(pod_cidrs(layout, other), other.addresses, strict=True):
                if other != node:
                    run([*in_node(layout, node.name), "ip", "route", "replace", cidr, "via", address])
        ranges = [[{"subnet": cidr}] for cidr in pod_cidrs(layout, node)]
        routes = [{"dst": "0.0.0.0/0" if family.version == 4 else "::/0"} for family in layout.families]
        ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
        plugin = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        _install(layout, node, {"cniVersion": "1.0.0", "name": "bridge", "plugins": [plugin, _PORTMAP]})


def flannel(layout: Layout) -> None:
    """flanneld on each node, its plugin, and what its DaemonSet writes."""
    _flanneld(layout)
    for node in layout.nodes:
        run(
            [*in_node(layout, node.name), "sh", "-ec", "cat >/opt/cni/bin/flannel; chmod +x /opt/cni/bin/flannel"],
            stdin=PLUGIN,
        )
        plugin = {
            "type": "flannel",
            "subnetFile": "/run/flannel/subnet.env",
            "dataDir": "/var/lib/cni/flannel",
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        }
        _install(layout, node, {"cniVersion": "0.3.1", "name": "cbr0", "plugins": [plugin, _PORTMAP]})


def with_policies(layout: Layout) -> None:
    """flanneld and kube-router on each node. What flannel's plugin hands over to is configured itself, without `PLUGIN`."""
    _flanneld(layout)
    for node in layout.nodes:
        mtu = until(lambda node=node: _flannel_mtu(layout, node), f"flanneld of {node.name} serves", patience=_PATIENCE)  # type: ignore[misc]
        ipam = {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in pod_cidrs(layout, node)]}
        plugin = {"type": "bridge", "bridge": "cni0", "mtu": mtu, "hairpinMode": True, "isDefaultGateway": True}
        _install(layout, node, {"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{**plugin, "ipam": ipam}, _PORTMAP]})
        options = (
            *(f"--kubeconfig={layout.kubeconfig}", f"--hostname-override={node.name}", "--run-firewall=true"),
            *("--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false"),
            f"--service-cluster-ip-range={layout.each('services')}",
        )
        command = [*in_node(layout, node.name), str(layout.programs / "kube-router"), *options]
        start(layout, node.name, f"{node.name}-kube-router", command)


def _flanneld(layout: Layout) -> None:
    families = {f"EnableIPv{family.version}": True for family in layout.families}
    networks = {"Network" if family.version == 4 else "IPv6Network": family.pods for family in layout.families}
    settings = layout.root / "net-conf.json"
    settings.write_text(json.dumps({"Backend": {"Type": "vxlan"}, **families, **networks}))
    for node in layout.nodes:
        options = ("--kube-subnet-mgr", f"--kubeconfig-file={layout.kubeconfig}", f"--net-config-path={settings}")
        program = [str(layout.programs / "flanneld"), *options, "--iface=eth0", "--ip-masq"]
        start(
            layout,
            node.name,
            f"{node.name}-flanneld",
            [*in_node(layout, node.name), "env", f"NODE_NAME={node.name}", *program],
        )


def _flannel_mtu(layout: Layout, node: Node) -> int | None:
    """None until flanneld has written it."""
    script = "sed -n s/FLANNEL_MTU=//p /run/flannel/subnet.env 2>/dev/null || :"
    return int(run([*in_node(layout, node.name), "sh", "-c", script]) or 0) or None


def kube_proxy(layout: Layout) -> None:
    """In the mode nftables, on each node."""
    for node in layout.nodes:
        # The number of conntrack entries is the machine's.
        options = (
            f"--kubeconfig={layout.kubeconfig}",
            f"--hostname-override={node.name}",
            "--proxy-mode=nftables",
            "--conntrack-max-per-core=0",
        )
        command = [str(layout.programs / "kube-proxy"), *options, f"--cluster-cidr={layout.each('pods')}"]
        # A reply from a pod on the same bridge must pass the rules that have changed the request's address.
        run([*in_node(layout, node.name), "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
        start(layout, node.name, f"{node.name}-kube-proxy", [*in_node(layout, node.name), *command])
    until(lambda: all(_proxies(layout, node) for node in layout.nodes), "kube-proxy runs", patience=_PATIENCE)


def _proxies(layout: Layout, node: Node) -> bool:
    tables = run([*in_node(layout, node.name), "nft", "list", "tables"])
    return all(f"table {'ip' if family.version == 4 else 'ip6'} kube-proxy" in tables for family in layout.families)


def _install(layout: Layout, node: Node, conflist: dict[str, object]) -> None:
    """Complete when it appears."""
    written = "cat >/etc/cni/net.d/new; mv /etc/cni/net.d/new /etc/cni/net.d/50-other.conflist"
    run([*in_node(layout, node.name), "sh", "-ec", written], stdin=json.dumps(conflist))
