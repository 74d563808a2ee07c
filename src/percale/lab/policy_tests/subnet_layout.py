"""Chooses nodes' pod subnets to fit the addresses that pods must have. Called by `placement.py`; pure.

pods' addresses and nodes ─▶ the first subnet length that fits ─▶ NodeSubnets ─▶ net-conf.json
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from typing import Any

from msgspec import Struct

from percale.errors import LabError
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.pod import Pod

_LENGTHS = {4: (24, 25, 26, 27, 28, 23, 22, 20, 18, 16), 6: (64, 80, 96, 112, 120, 56, 48)}
"""Prefix lengths of a node's subnet, the usual one first."""
_MOST_NODES = 6


class NodeSubnets(Struct, frozen=True):
    """A node with its pod subnets, by family."""

    name: str
    subnets: dict[int, IPNetwork]


def assign_subnets(pods: Sequence[Pod], nodes: Sequence[str]) -> tuple[NodeSubnets, ...]:
    """Nodes with subnets that hold exactly their pods. Raises LabError."""
    node_by_addresses: dict[tuple[IPAddress, ...], str | None] = {}
    for pod in pods:
        addresses = tuple(map(ip_address, pod.status.addresses))
        node_by_addresses[addresses] = node_by_addresses.get(addresses) or pod.spec.nodeName
    versions = sorted({address.version for addresses in node_by_addresses for address in addresses}) or [4]
    for lengths in product(*(_LENGTHS[version] for version in versions)):
        node_subnets = _try_lengths(node_by_addresses, dict(zip(versions, lengths, strict=True)), nodes)
        if node_subnets is not None:
            return node_subnets
    raise LabError("no nodes' subnets hold these pods' addresses as they are spread")


def _try_lengths(
    node_by_addresses: dict[tuple[IPAddress, ...], str | None], lengths: dict[int, int], nodes: Sequence[str]
) -> tuple[NodeSubnets, ...] | None:
    """With subnets of these lengths; None: they do not fit. A node's subnets have the same index in both families."""
    first: dict[int, int] = {}
    for version, length in lengths.items():
        numbers = [
            int(each) >> (each.max_prefixlen - length)
            for ips in node_by_addresses
            for each in ips
            if each.version == version
        ]
        first[version] = min(numbers, default=10 << 16 | 244 << 8)  # 10.244.0.0/24, when no pod has an address

    def number(address: IPAddress) -> int:
        return (int(address) >> (address.max_prefixlen - lengths[address.version])) - first[address.version]

    owners: dict[int, str | None] = {}
    for addresses, node in node_by_addresses.items():
        offsets = {number(address) for address in addresses}
        if len(offsets) != 1 or any(_is_reserved(each, lengths[each.version]) for each in addresses):
            return None
        offset = offsets.pop()
        if None not in (node, owners.get(offset)) and owners[offset] != node:
            return None
        owners[offset] = owners.get(offset) or node
    named = [node for node in owners.values() if node is not None]
    if len(set(named)) < len(named) or len(owners) > max(_MOST_NODES, len(nodes)):
        return None
    return tuple(_name_nodes(owners, lengths, first, nodes))


def _name_nodes(
    owners: dict[int, str | None], lengths: dict[int, int], first: dict[int, int], nodes: Sequence[str]
) -> Iterator[NodeSubnets]:
    named = {node for node in owners.values() if node is not None}
    unnamed = iter([*(node for node in nodes if node not in named), *(f"n{number}" for number in range(1, 99))])
    free = (offset for offset in range(99) if offset not in owners)
    node_by_offset = {offset: owners[offset] for offset in sorted(owners)}
    given: set[str] = set(named)
    for offset, node in node_by_offset.items():
        name = node or next(each for each in unnamed if each not in given)
        given.add(name)
        yield NodeSubnets(name, _subnets(offset, lengths, first))
    for node in nodes:
        if node not in given:
            yield NodeSubnets(node, _subnets(next(free), lengths, first))
    if not node_by_offset and not nodes:
        yield NodeSubnets("n1", _subnets(0, lengths, first))


def _subnets(offset: int, lengths: dict[int, int], first: dict[int, int]) -> dict[int, IPNetwork]:
    found: dict[int, IPNetwork] = {}
    for version, length in lengths.items():
        if version == 4:
            found[4] = IPv4Network(((first[4] + offset) << (32 - length), length))
        else:
            found[6] = IPv6Network(((first[6] + offset) << (128 - length), length))
    return found


def _is_reserved(address: IPAddress, length: int) -> bool:
    """Whether no pod may have it: the subnet's first and last address, and the gateway's."""
    low = int(address) & ((1 << (address.max_prefixlen - length)) - 1)
    return low in (0, 1) or low == (1 << (address.max_prefixlen - length)) - 1


def network_for(node_subnets: Sequence[NodeSubnets]) -> dict[str, Any]:
    """A net-conf.json with exactly these subnets."""
    config: dict[str, Any] = {"Backend": {"Type": "host-gw"}, "EnableIPv4": False}
    for version, prefix in ((4, ""), (6, "IPv6")):
        subnets = sorted((node.subnets[version] for node in node_subnets if version in node.subnets), key=_start)
        if not subnets:
            continue
        network = subnets[0].supernet(2)
        while _start(subnets[-1]) > int(network.broadcast_address):
            network = network.supernet()
        config |= {
            "EnableIPv4" if version == 4 else "EnableIPv6": True,
            f"{prefix}Network": str(network),
            f"{prefix}SubnetLen": subnets[0].prefixlen,
            f"{prefix}SubnetMin": str(subnets[0].network_address),
            f"{prefix}SubnetMax": str(subnets[-1].network_address),
        }
    return config


def _start(network: IPNetwork) -> int:
    return int(network.network_address)
