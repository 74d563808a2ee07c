"""What of the IP pools is in use, and what is wrong with their blocks. Pure; `percale ipam` asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import pairwise
from typing import Literal, NamedTuple

from msgspec import Struct

from percale.counted import counted
from percale.model.addresses import IPAddress, IPNetwork, parse_network
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.pod import Pod


class Usage(Struct, frozen=True):
    """Of a pool or a block; `reserved` are addresses that no pod gets unless it asks for one, and that none has."""

    grouping: Literal["IP Pool", "Block"]
    name: str
    """The pool's, or that of the node which has the block."""
    cidr: str
    total: int
    inUse: int
    reserved: int
    free: int


class IpamProblem(Struct, frozen=True):
    """`block` is what to give back, where that mends it."""

    what: str
    block: str | None = None


class IpamWorld(NamedTuple):
    """The objects of a store; `nodes` are the names of all that are there."""

    pools: Sequence[IPPool]
    reservations: Sequence[IPReservation]
    blocks: Sequence[AddressBlock]
    pods: Sequence[Pod]
    nodes: Collection[str]

    def pods_by_address(self) -> Mapping[IPAddress, list[Pod]]:
        """Those with an address of their own."""
        found = defaultdict[IPAddress, list[Pod]](list)
        for pod in self.pods:
            if not pod.spec.hostNetwork and pod.status.phase not in ("Succeeded", "Failed"):
                for address in pod.ips:
                    found[address].append(pod)
        return found


def usage(world: IpamWorld, *, blocks: bool) -> Iterator[Usage]:
    """Each pool, with `blocks` each of its blocks after it."""
    reserved = [parse_network(cidr) for each in world.reservations for cidr in each.spec.reservedCIDRs]
    pools = [pool.spec.network for pool in world.pools]
    used = _by_network(world.pods_by_address(), [*pools, *(block.network for block in world.blocks)])
    for pool in world.pools:
        network = pool.spec.network
        yield _usage("IP Pool", pool.metadata.name, network, used[network], reserved)
        for block in sorted((each for each in world.blocks if _within(each.network, network)), key=_first):
            if blocks:
                yield _usage("Block", block.spec.node, block.network, used[block.network], reserved)


def _by_network(
    addresses: Iterable[IPAddress], networks: Iterable[IPNetwork]
) -> defaultdict[IPNetwork, list[IPAddress]]:
    """The addresses in each network: there may be very many of both."""
    wanted = set(networks)
    lengths = {(each.version, each.prefixlen) for each in wanted}
    found = defaultdict[IPNetwork, list[IPAddress]](list)
    for address in addresses:
        for version, length in lengths:
            if version == address.version:
                network = ip_network((address, length), strict=False)
                if network in wanted:
                    found[network].append(address)
    return found


def _usage(
    grouping: Literal["IP Pool", "Block"],
    name: str,
    network: IPNetwork,
    mine: Sequence[IPAddress],
    reserved: Iterable[IPNetwork],
) -> Usage:
    parts = _disjoint(each if _within(each, network) else network for each in reserved if _overlap(each, network))
    kept = sum(each.num_addresses for each in parts) - sum(any(one in each for each in parts) for one in mine)
    total = network.num_addresses
    return Usage(grouping, name, str(network), total, len(mine), kept, total - len(mine) - kept)


def _disjoint(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Without those within others."""
    found: list[IPNetwork] = []
    for network in sorted(set(networks), key=lambda each: each.prefixlen):
        if not any(_within(network, each) for each in found):
            found.append(network)
    return found


def problems(world: IpamWorld) -> Iterator[IpamProblem]:
    """Blocks that leak, that overlap, that are of no pool; pods whose address is not their node's, or also another's."""
    by_address = world.pods_by_address()
    by_block = _by_network(by_address, [block.network for block in world.blocks])
    for block in world.blocks:
        node = block.spec.node
        used = len(by_block[block.network])
        if node not in world.nodes:
            what = f"block {block.network} is of node {node}, which is gone" + (
                f", with {counted(used, 'pod')}" if used else ""
            )
            yield IpamProblem(what, None if used else str(block.network))
        elif not any(_within(block.network, pool.spec.network) for pool in world.pools):
            yield IpamProblem(f"block {block.network} of node {node} is in no IP pool")
    ordered = sorted(world.blocks, key=_first)
    for one, other in pairwise(ordered):
        if _overlap(one.network, other.network):
            yield IpamProblem(
                f"block {one.network} of node {one.spec.node} overlaps {other.network} of node {other.spec.node}"
            )
    blocks = {block.network: block for block in world.blocks}
    block_of = {address: blocks[network] for network, addresses in by_block.items() for address in addresses}
    pools = [pool.spec.network for pool in world.pools]
    for address, pods in by_address.items():
        if any(address in network for network in pools):
            yield from _of_address(address, pods, block_of.get(address))


def _of_address(address: IPAddress, pods: Sequence[Pod], block: AddressBlock | None) -> Iterator[IpamProblem]:
    if pods[1:]:
        yield IpamProblem(f"{address} is the address of pods {' and '.join(str(pod.key) for pod in pods)}")
    for pod in pods:
        if block is None:
            yield IpamProblem(f"pod {pod.key} has {address}, which is in no block")
        elif pod.spec.nodeName not in (None, "", block.spec.node):
            yield IpamProblem(f"pod {pod.key} of node {pod.spec.nodeName} has {address} of node {block.spec.node}")


def _first(block: AddressBlock) -> tuple[int, int, int]:
    network = block.network
    return network.version, int(network.network_address), network.prefixlen


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
