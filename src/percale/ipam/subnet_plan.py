"""Pure arithmetic on node subnets: candidates, free ones, overlaps.

Callers: `subnet_lease.py` (a subnet for this node), `ip_pools.py` (a block for it), backend/lease_conflicts.py and the agent
(overlaps among peers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from ipaddress import ip_network

from percale.errors import AddressRefused
from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig, SubnetRange
from percale.model.subnet_lease import NodeSubnets


def candidate_count(config: NetworkConfig) -> int:
    """How many nodes the network has room for: the minimum of its families."""
    return min(subnets.count for subnets in config.families.values())


def candidate(config: NetworkConfig, index: int) -> NodeSubnets:
    """The subnets number `index` from SubnetMin on; in dual stack both families have the same number."""
    return NodeSubnets(*(_subnet(subnets, index) for subnets in config.families.values()))


def free_candidates(config: NetworkConfig, taken: Iterable[IPNetwork], start: int = 0) -> Iterator[NodeSubnets]:
    """The candidates that overlap no taken subnet, from number `start` on and then from the first.

    The cost is independent of the size of a taken one.
    """
    numbers = free_numbers(_overlapped(config, taken), candidate_count(config), start)
    return (candidate(config, number) for number in numbers)


def free_numbers(taken: Iterable[tuple[int, int]], count: int, start: int) -> Iterator[int]:
    """The numbers below `count` that are in no taken span (first, last), from `start` on and then from the first."""
    free: list[range] = []
    number = 0
    for first, last in sorted(taken):
        free.append(range(number, min(first, count)))
        number = max(number, last + 1)
    free.append(range(number, count))
    for numbers in (
        *(range(max(each.start, start), each.stop) for each in free),
        *(range(each.start, min(each.stop, start)) for each in free),
    ):
        yield from numbers


def own_place(node: str, count: int) -> int:
    """The number that this node tries first: nodes that start at once seldom race."""
    return int.from_bytes(blake2b(node.encode(), digest_size=16).digest()) % count


def fitting(config: NetworkConfig, subnets: NodeSubnets) -> NodeSubnets | None:
    """These subnets if they fit, or the candidate that shares one family if the network's families changed.

    flannel numbers the subnets of each family by themselves, so a node that was flannel's has two numbers.
    """
    indices = [
        _index(config.families[family], subnet)
        for subnet in subnets
        if (family := Family(subnet.version)) in config.families
    ]
    if len(indices) == len(config.families) == len(subnets) and None not in indices:
        return subnets
    index = indices[0] if len(set(indices)) == 1 else None
    return candidate(config, index) if index is not None and index < candidate_count(config) else None


def from_pod_cidrs(config: NetworkConfig, node: str, cidrs: Iterable[str]) -> NodeSubnets:
    """The subnets that Kubernetes assigned to the node in `spec.podCIDRs`. Raises AddressRefused."""
    where = f"node {node}"
    found: dict[int, IPNetwork] = {}
    for cidr in cidrs:
        try:
            subnet = ip_network(cidr)
        except ValueError as error:
            raise AddressRefused(f'podCIDR "{cidr}" is not a network', where=where) from error
        if subnet.version in found:
            raise AddressRefused(f"two IPv{subnet.version} podCIDRs, {found[subnet.version]} and {subnet}", where=where)
        found[subnet.version] = subnet
    return NodeSubnets(*(_within(subnets, found.get(family), where) for family, subnets in config.families.items()))


def first_overlap(subnets: Iterable[IPNetwork], others: Iterable[IPNetwork]) -> tuple[IPNetwork, IPNetwork] | None:
    """The first pair of one's own and another's subnet that overlap."""
    for mine in subnets:
        for other in others:
            if mine.version == other.version and (mine.network_address in other or other.network_address in mine):
                return mine, other
    return None


def _subnet(subnets: SubnetRange, index: int) -> IPNetwork:
    start = int(subnets.first.network_address) + index * subnets.first.num_addresses
    return type(subnets.first)((start, subnets.length))


def _index(subnets: SubnetRange, subnet: IPNetwork) -> int | None:
    """The number of a subnet of the configured length within the range."""
    offset = int(subnet.network_address) - int(subnets.first.network_address)
    if subnet.prefixlen != subnets.length or not 0 <= offset // subnet.num_addresses < subnets.count:
        return None
    return offset // subnet.num_addresses


def _overlapped(config: NetworkConfig, taken: Iterable[IPNetwork]) -> Iterator[tuple[int, int]]:
    """The candidates that taken subnets overlap, as (first, last) numbers; one may lie outside the range."""
    for subnet in taken:
        mine = config.families.get(Family(subnet.version))
        if mine is None:
            continue
        step, start = mine.first.num_addresses, int(mine.first.network_address)
        first = (int(subnet.network_address) - start) // step
        last = (int(subnet.broadcast_address) - start) // step
        if last >= 0 and first < candidate_count(config):
            yield max(first, 0), min(last, candidate_count(config) - 1)


def _within(subnets: SubnetRange, subnet: IPNetwork | None, where: str) -> IPNetwork:
    if subnet is None:
        raise AddressRefused(
            f"spec.podCIDRs has no subnet for {subnets.network}",
            where=where,
            hint="give the controller manager a cluster CIDR of each family, or leave podCIDRs empty",
        )
    inside = subnet.network_address in subnets.network and subnet.prefixlen >= subnets.network.prefixlen
    if not (inside and subnet.prefixlen <= subnet.max_prefixlen - 2):
        raise AddressRefused(
            f"podCIDR {subnet} is not a node's part of Network {subnets.network}",
            where=where,
            hint="Network in net-conf.json and the controller manager's --cluster-cidr must be the same",
        )
    return subnet
