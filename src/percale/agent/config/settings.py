"""The agent's configuration. `loader.py` loads it.

docs/agent.md is the reference; a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

AbsolutePath = Annotated[str, msgspec.Meta(pattern=r"^/[^\x00]*$", description="an absolute path")]
Listen = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(unix:/[^\x00]+|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}|[^:\[\]/]+:[0-9]{1,5})$",
        description="HOST:PORT, [IPv6]:PORT or unix:/PATH",
    ),
]


class CniConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths of the container runtime, and how pods are attached."""

    confDir: AbsolutePath = "/etc/cni/net.d"
    binDir: AbsolutePath | None = None
    """The plugin is installed here when given."""
    socket: AbsolutePath = "/run/percale/cni.sock"
    wiring: Literal["routed", "bridge"] = "routed"
    bridge: Annotated[str, msgspec.Meta(pattern=r"^[^/\s:]{1,15}$", description="a device name")] = "cni0"


Cidr = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$", description="a network, as 10.96.0.0/12")]


class ServicesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Service proxy, in place of kube-proxy."""

    enabled: bool = True
    """False where kube-proxy runs."""
    cidrs: tuple[Cidr, ...] = ()
    """The networks of cluster IPs: what is sent to an address in them that no Service has is dropped."""
    nodePortAddresses: tuple[Cidr, ...] = ()
    """Which of the node's addresses take node ports; none given: its primary ones."""
    externalIPs: Literal["any", "none"] | tuple[Cidr, ...] = ()
    """Which external IPs of Services are served; none given: those that are no pod's, no Service's and no node's."""
    masqueradeAll: bool = False
    """Pods too reach cluster IPs under the node's address."""
    strategy: Literal["random", "rr", "wrr", "sh", "mh", "lc"] = "random"
    """How connections are spread, for Services without the annotation percale.io/strategy."""
    healthz: Listen | None = "*:10256"
    """Where load balancers ask whether this node is to have clients."""
    metrics: Listen | None = "127.0.0.1:10249"
    """Where kube-proxy's `/metrics` and `/proxyMode` are expected."""
    leastConnInterval: Annotated[float, msgspec.Meta(gt=0, description="a number of seconds")] = 5.0
    """Seconds between two counts of connections, for the strategy lc."""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Paths are absolute; `network` is a net-conf.json, inline or `networkFile`, else the store's ConfigMap."""

    node: Annotated[str, msgspec.Meta(min_length=1, description="a node name")]
    store: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(files:/[^\x00]+|kubernetes:[^\x00]*|etcd:https?://[^\x00]+)$",
            description="files:/DIRECTORY, kubernetes:[/KUBECONFIG][?context=NAME] or etcd:http[s]://HOST:PORT[,…][?prefix=/PATH&…]",
        ),
    ]
    network: dict[str, Any] | None = None
    networkFile: AbsolutePath | None = None
    backend: Literal["network", "none"] = "network"
    """network: the one of the net-conf.json. none: pods are attached by another plugin, Percale only applies policies."""
    established: Literal["cut", "keep"] = "cut"
    """What becomes of connections that a change of policy forbids."""
    shortcut: Literal["auto", "off"] = "auto"
    """auto: established flows between pods pass by the rules where the kernel can do that (5.16 and newer)."""
    iface: tuple[str, ...] = ()
    ifaceRegex: tuple[str, ...] = ()
    ifaceCanReach: str | None = None
    publicIP: str | None = None
    publicIPv6: str | None = None
    ipMasq: bool = True
    ipPools: bool = False
    """Pods may have addresses of Calico's IPPools, beside those of the node's subnet."""
    probePeers: bool = True
    """Ask peers by echo requests whether they answer."""
    stateDir: AbsolutePath = "/var/lib/percale"
    runDir: AbsolutePath = "/run/percale"
    subnetFile: AbsolutePath | None = "/run/flannel/subnet.env"
    """flannel's file about the node's subnet, for docker and others."""
    http: Listen | None = "127.0.0.1:9099"
    secretsDir: AbsolutePath = "/etc/percale/secrets"
    """Secrets that objects refer to, as mounted: NAME/KEY is a file."""
    cni: CniConfig = CniConfig()
    services: ServicesConfig = ServicesConfig()
    logFormat: Literal["text", "json"] = "text"
    verbose: bool = False
    """Print each kernel change as the equivalent command line before it is made."""
