"""Where pods that have no address yet will have theirs, as far as it is known. Used by `world.py` and `percale why`; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, ip_network

from msgspec import Struct, field

from percale.model.addresses import IPNetwork
from percale.model.configmap import ConfigMap
from percale.model.meta import Object
from percale.model.netconf import NET_CONF, parse_network_config
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease

NO_PODS = tuple(
    map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"))
)
"""Unspecified, loopback, link-local, multicast and reserved addresses: those of no pod."""


def _anywhere() -> Iterator[IPNetwork]:
    parts: list[IPv4Network] = [IPv4Network("0.0.0.0/0")]
    for gone in NO_PODS:
        if isinstance(gone, IPv4Network):
            parts = [
                left for part in parts for left in (part.address_exclude(gone) if gone.subnet_of(part) else (part,))
            ]
    yield from parts


ANYWHERE = tuple(_anywhere())
"""The IPv4 addresses that a pod can have."""


class PodNetworks(Struct, frozen=True):
    """Of all pods, and of those of a node; without any, they are not known."""

    everywhere: tuple[IPNetwork, ...] = ()
    by_node: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)

    def of(self, node: str | None) -> tuple[IPNetwork, ...]:
        """Of a pod on this node, or on any."""
        return self.by_node.get(node or "", self.everywhere)


def networks_of_pods(objects: Iterable[Object], configured: Iterable[IPNetwork] = ()) -> PodNetworks:
    """Of the network's configuration, given or in a ConfigMap, else of the nodes, if each has one. Raises BadNetworkConfig."""
    by_node: dict[str, tuple[IPNetwork, ...]] = {}
    networks = list(configured)
    for each in objects:
        if isinstance(each, Node):
            by_node[each.metadata.name] = each.pod_cidrs or by_node.get(each.metadata.name, ())
        elif isinstance(each, SubnetLease):
            by_node[each.spec.node] = tuple(each.spec.subnets)
        elif isinstance(each, ConfigMap) and NET_CONF in each.data and not networks:
            networks += parse_network_config(each.data[NET_CONF], f"ConfigMap {each.key} {NET_CONF}").networks
    if not networks and all(by_node.values()):
        networks = [network for each in by_node.values() for network in each]
    return PodNetworks(tuple(networks), {node: each for node, each in by_node.items() if each})
