"""The agent's configuration: a YAML file, then PERCALE_… environment, then flags; the later wins. SKELETON of the fields."""

from __future__ import annotations

from typing import Any

import msgspec


class CniConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the container runtime looks, and how pods are wired."""

    confDir: str = "/etc/cni/net.d"
    binDir: str | None = None
    socket: str = "/run/percale/cni.sock"
    wiring: str = "routed"
    bridge: str = "cni0"


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Paths are absolute; `network` is a net-conf.json, inline or `networkFile`, else the store's ConfigMap."""

    node: str
    store: str
    """`files:DIR`; later issues add `etcd:…` and `kubernetes:`."""
    network: dict[str, Any] | None = None
    networkFile: str | None = None
    iface: tuple[str, ...] = ()
    ifaceRegex: tuple[str, ...] = ()
    ifaceCanReach: str | None = None
    publicIP: str | None = None
    publicIPv6: str | None = None
    ipMasq: bool = True
    stateDir: str = "/var/lib/percale"
    runDir: str = "/run/percale"
    http: str | None = "127.0.0.1:9099"
    cni: CniConfig = CniConfig()
    logFormat: str = "text"
    verbose: bool = False
