"""Where Services are resolved: the configuration and this node. Called by `table` and `resolving`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from percale.model.addresses import IPNetwork, is_address, packed
from percale.model.backend_options import VxlanOptions
from percale.model.node import Node

ZONE_LABEL = "topology.kubernetes.io/zone"
REMOVED_SOON = "ToBeDeletedByClusterAutoscaler"
"""The taint of a node that the cluster autoscaler is about to remove."""


class ServiceConfig(Struct, frozen=True):
    """What the agent's configuration says of Services."""

    node: str
    """This node's name."""
    pod_cidrs: tuple[IPNetwork, ...] = ()
    """Of the whole cluster: packets from there are from pods."""
    service_cidrs: tuple[IPNetwork, ...] = ()
    """Packets to an address in there that no Service has are dropped."""
    node_port_addresses: tuple[IPNetwork, ...] | None = None
    """Which of the node's addresses take node ports. None: its primary ones."""
    external_ips: tuple[IPNetwork, ...] | Literal["any", "none"] = ()
    """Which external IPs are served; empty: those that are no pod's, no Service's and no node's."""
    masquerade_all: bool = False
    """Packets to cluster IPs are masqueraded whoever sends them."""
    strategy: str = "random"
    """Of Services that do not name one."""
    tunnel_ports: tuple[int, ...] = VxlanOptions().tunnel_ports
    """Of UDP: at a node's address they are no endpoints."""


class NodeFacts(Struct, frozen=True):
    """What Services look at in the own Node. `addresses` are packed, the primary one of each family first."""

    zone: str = ""
    addresses: tuple[bytes, ...] = ()
    eligible: bool = True
    """Load balancers may send new clients to it: it is not about to be removed."""


def facts_of_node(node: Node) -> NodeFacts:
    """Internal addresses come before external ones; names are no addresses."""
    told = [
        packed(each.address)
        for kind in ("InternalIP", "ExternalIP")
        for each in node.status.addresses
        if each.type == kind and is_address(each.address)
    ]
    return NodeFacts(
        zone=node.metadata.labels.get(ZONE_LABEL, ""),
        addresses=tuple(dict.fromkeys(told)),
        eligible=node.metadata.deletionTimestamp is None
        and all(taint.key != REMOVED_SOON for taint in node.spec.taints),
    )


def node_port_addresses(config: ServiceConfig, node: NodeFacts) -> tuple[bytes, ...]:
    """The node's addresses that take node ports; never loopback, which cannot be left again."""
    if config.node_port_addresses is None:
        primary = {len(address): address for address in reversed(node.addresses)}
        return tuple(address for address in node.addresses if address in primary.values())
    return tuple(
        address
        for address in node.addresses
        if is_in(address, config.node_port_addresses) and not _is_loopback(address)
    )


def is_in(address: bytes, networks: Iterable[IPNetwork]) -> bool:
    """A packed address is in one of the networks."""
    number, bits = int.from_bytes(address), 8 * len(address)
    return any(
        network.max_prefixlen == bits
        and number >> (bits - network.prefixlen) == int(network.network_address) >> (bits - network.prefixlen)
        for network in networks
    )


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"
