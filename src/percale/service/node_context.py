"""The configuration and the node for which Services are resolved. Used by `resolver.py` and `packet_lookup.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPNetwork, is_address, packed
from percale.model.backend_options import guarded_ports
from percale.model.ip_family import Family
from percale.model.node import Node

ZONE_LABEL = "topology.kubernetes.io/zone"
REMOVED_SOON = "ToBeDeletedByClusterAutoscaler"
"""The taint of a node that the cluster autoscaler is about to remove."""


ClusterIPMasquerade: TypeAlias = Literal["all", "not-pods", "none"]
"""Whose packets to cluster IPs are masqueraded, besides those of a pod to itself."""


class ServiceConfig(Struct, frozen=True):
    """The agent's settings for Services."""

    node: str
    """This node's name."""
    pod_cidrs: tuple[IPNetwork, ...] = ()
    """Pod networks of the whole cluster; empty: not known."""
    service_cidrs: tuple[IPNetwork, ...] = ()
    """Packets to their addresses without a Service are dropped."""
    node_port_addresses: tuple[IPNetwork, ...] | None = None
    """Which of the node's addresses serve node ports. None: its primary ones."""
    external_ips: tuple[IPNetwork, ...] | Literal["any", "none"] = ()
    """Which external IPs are served; empty: those that belong to no pod, Service or node."""
    servers: frozenset[bytes] = frozenset()
    """Packed addresses of servers that this node's agent needs, which are no external IPs by default."""
    masquerade_all: bool = False
    """Masquerade all packets to cluster IPs, and this node's own under externalTrafficPolicy Local."""
    strict_families: frozenset[Family] = frozenset()
    """In which this node filters reverse paths: answers to its own address that come past the tunnel are dropped."""
    strategy: str = "random"
    """The default."""
    tunnel_ports: tuple[int, ...] = guarded_ports(())
    """UDP ports that are no endpoints at a node's address."""

    @property
    def cluster_ip_masquerade(self) -> ClusterIPMasquerade:
        """As kube-proxy: who cannot tell pods from others masquerades nobody for being outside."""
        if self.masquerade_all:
            return "all"
        return "not-pods" if self.pod_cidrs else "none"

    @property
    def own_source_families(self) -> frozenset[Family]:
        """In which this node's own connections under externalTrafficPolicy Local keep their address."""
        return frozenset() if self.masquerade_all else frozenset(Family) - self.strict_families


class NodeFacts(Struct, frozen=True):
    """Facts of this node. `addresses` are packed, the primary one of each family first."""

    zone: str = ""
    addresses: tuple[bytes, ...] = ()
    eligible: bool = True
    """Load balancers may send new connections: it is not about to be removed."""


def facts_of_node(node: Node) -> NodeFacts:
    """Internal addresses come before external ones; host names do not count."""
    found = [
        packed(each.address)
        for kind in ("InternalIP", "ExternalIP")
        for each in node.status.addresses
        if each.type == kind and is_address(each.address)
    ]
    return NodeFacts(
        zone=node.metadata.labels.get(ZONE_LABEL, ""),
        addresses=tuple(dict.fromkeys(found)),
        eligible=node.metadata.deletionTimestamp is None
        and all(taint.key != REMOVED_SOON for taint in node.spec.taints),
    )


def node_port_addresses(config: ServiceConfig, node: NodeFacts) -> tuple[bytes, ...]:
    """The node's addresses that serve node ports; never loopback, whose packets cannot leave the node."""
    if config.node_port_addresses is None:
        primary = {len(address): address for address in reversed(node.addresses)}
        return tuple(address for address in node.addresses if address in primary.values())
    return tuple(
        address
        for address in node.addresses
        if is_in(address, config.node_port_addresses) and not _is_loopback(address)
    )


def is_in(address: bytes, networks: Iterable[IPNetwork]) -> bool:
    """Whether a packed address is in one of the networks."""
    number, bits = int.from_bytes(address), 8 * len(address)
    return any(
        network.max_prefixlen == bits
        and number >> (bits - network.prefixlen) == int(network.network_address) >> (bits - network.prefixlen)
        for network in networks
    )


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"
