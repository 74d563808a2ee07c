"""Addresses for pods that have none yet, and the rules whose meaning depends on them. Used by `world.py` and cli/matrix.py; pure.

Where the pod network is known, they are of its largest part that no ipBlock divides, as a pod's most likely is. Where it is not,
they are where the fewest ipBlocks mean them: none does so by accident.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Network

from percale.errors import BadInput
from percale.explain.pod_networks import ANYWHERE, PodNetworks
from percale.ipam.address_pool import gateway
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.pod import Pod
from percale.policy.compiled_policy import CompiledRule, RuleRef
from percale.policy.rule_terms import Block

_PLACES = tuple(
    map(IPv4Network, ("10.244.0.0/14", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15"))
)
"""Of pods whose network is not known; the first of those that are equally good."""


class MadeUpAddresses:
    """Gives each pod one of each family of its network, as far as it is known. No address is given twice."""

    def __init__(self, networks: PodNetworks, blocks: Collection[Block], taken: Iterable[IPAddress]) -> None:
        self._networks = networks
        self._taken = set(taken)
        for each in (*networks.everywhere, *_PLACES, *(net for found in networks.by_node.values() for net in found)):
            self._taken |= {each.network_address, gateway(each), each.broadcast_address}
        self._divided = {version: tuple(_divided(blocks, version)) for version in (4, 6)}
        self._free: dict[tuple[IPNetwork, ...], Iterator[str]] = {}

    def of(self, pod: Pod) -> tuple[str, ...]:
        """Of a pod in a network of its own. Raises BadInput when there is none left."""
        known = self._networks.of(pod.spec.nodeName)
        families = [tuple(each for each in known or _PLACES if each.version == version) for version in (4, 6)]
        return tuple(self._next(each, pod) for each in families if each)

    def _next(self, networks: tuple[IPNetwork, ...], pod: Pod) -> str:
        free = self._free.setdefault(networks, self._unused(networks))
        address = next(free, None)
        if address is None:
            where = ", ".join(map(str, networks))
            raise BadInput(f"more pods without an address than {where} has free", where=f"pod {pod.key}")
        return address

    def _unused(self, networks: tuple[IPNetwork, ...]) -> Iterator[str]:
        parts = [part for network in networks for part in self._parts(network)]
        if networks == _PLACES:
            parts.sort(key=lambda part: part[2])
        else:
            parts.sort(key=lambda part: part[1] - part[0], reverse=True)
        for first, last, _ in parts:
            for number in range(first, last + 1):
                address = type(networks[0].network_address)(number)
                if address not in self._taken:
                    self._taken.add(address)
                    yield str(address)

    def _parts(self, network: IPNetwork) -> Iterator[tuple[int, int, int]]:
        """First and last address, and how many blocks mean them."""
        low, high = _span(network)
        for first, last, blocks in self._divided[network.version]:
            if first <= high and low <= last:
                yield max(low, first), min(high, last), blocks


def _divided(blocks: Iterable[Block], version: int) -> Iterator[tuple[int, int, int]]:
    """All addresses of a family, in parts that no block divides: first, last, and how many blocks mean them."""
    last_of_all = (1 << (32 if version == 4 else 128)) - 1
    changes: Counter[int] = Counter({0: 0})
    for block in blocks:
        if block.network.version == version:
            for first, last in block.ranges:
                changes[first] += 1
                changes[last + 1] -= 1
    firsts = sorted(each for each in changes if each <= last_of_all)
    depth = 0
    for first, following in zip(firsts, [*firsts[1:], last_of_all + 1], strict=True):
        depth += changes[first]
        yield first, following - 1, depth


def dependent_rules(rules: Iterable[CompiledRule], networks: PodNetworks, pods: Iterable[Pod]) -> tuple[RuleRef, ...]:
    """Rules with an ipBlock that may mean one of these pods, or not, depending on the address that it gets."""
    possible = {networks.of(pod.spec.nodeName) or ANYWHERE for pod in pods}
    return tuple(rule.ref for rule in rules if any(_depends(_blocks(rule), each) for each in possible))


def unseen_ipv6_rules(rules: Iterable[CompiledRule], networks: PodNetworks, pods: Iterable[Pod]) -> tuple[RuleRef, ...]:
    """Rules with an IPv6 ipBlock, where one of these pods has an IPv4 address alone for want of a known network."""
    if all(networks.of(pod.spec.nodeName) for pod in pods):
        return ()
    return tuple(rule.ref for rule in rules if any(each.network.version == 6 for each in _blocks(rule)))


def _blocks(rule: CompiledRule) -> Sequence[Block]:
    return [peer for peer in rule.peers or () if isinstance(peer, Block)]


def _depends(blocks: Collection[Block], networks: Iterable[IPNetwork]) -> bool:
    """Whether one of them means some addresses of a family of these networks, and not others."""
    spans = [(network.version, *_span(network)) for network in networks]
    for block in blocks:
        here = [(low, high) for version, low, high in spans if version == block.network.version]
        meant = sum(max(0, min(high, last) - max(low, first) + 1) for low, high in here for first, last in block.ranges)
        if 0 < meant < sum(high - low + 1 for low, high in here):
            return True
    return False


def _span(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
