"""The peers and ports of rules as hashable values: pods by selectors, addresses by blocks. `kinds/` make them.

A term's name is a digest of its content: equal selectors are one term, indexed once (`selector_index.py`) and one kernel set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPNetwork, parse_network
from percale.model.selector import LabelSelector

Direction: TypeAlias = Literal["egress", "ingress"]
FlowProtocol: TypeAlias = Literal["TCP", "UDP", "SCTP", "ICMP"]
"""Of a flow; rules can name the first three."""

Labels: TypeAlias = Mapping[str, str]

EVERYTHING = LabelSelector()


def digest(*parts: object) -> str:
    """A stable digest of this content, by which it is known: nobody finds other content with the same one by trying."""
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def canonical(selector: LabelSelector) -> tuple[object, ...]:
    """A selector's content in canonical order."""
    return (
        tuple(sorted(selector.matchLabels.items())),
        tuple(sorted((each.key, each.operator, tuple(sorted(each.values))) for each in selector.matchExpressions)),
    )


def _ends(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


class PodSelectorTerm(Struct, frozen=True, eq=False, dict=True):
    """Pods by labels, in one namespace or in those that a selector matches."""

    namespaces: str | LabelSelector
    pods: LabelSelector = EVERYTHING

    @cached_property
    def name(self) -> str:
        where = self.namespaces if isinstance(self.namespaces, str) else canonical(self.namespaces)
        return digest(where, canonical(self.pods))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PodSelectorTerm) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def matches(self, namespace: str, namespace_labels: Labels, labels: Labels) -> bool:
        """Whether it selects a pod of this namespace with these labels."""
        there = (
            self.namespaces == namespace
            if isinstance(self.namespaces, str)
            else self.namespaces.matches(namespace_labels)
        )
        return there and self.pods.matches(labels)


class Block(Struct, frozen=True, dict=True):
    """An ipBlock: a network of one family without its exceptions; `in` takes a packed address."""

    cidr: str
    exceptions: tuple[str, ...] = ()

    @cached_property
    def network(self) -> IPNetwork:
        return parse_network(self.cidr)

    @cached_property
    def excluded(self) -> tuple[IPNetwork, ...]:
        return tuple(map(parse_network, self.exceptions))

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What the exceptions leave of the network: disjoint ranges in order, as numbers."""
        left: list[tuple[int, int]] = []
        start, last = _ends(self.network)
        excluded = (each for each in self.excluded if each.version == self.network.version)
        for first, end in sorted(map(_ends, excluded)):
            if first > last:
                break
            if start < first:
                left.append((start, first - 1))
            start = max(start, end + 1)
        if start <= last:
            left.append((start, last))
        return tuple(left)

    @cached_property
    def _addresses(self) -> AddressSet:
        return AddressSet((self,))

    def __contains__(self, address: bytes) -> bool:
        return address in self._addresses


class NumberRanges:
    """Numbers in ranges; `in` takes logarithmic time."""

    __slots__ = ("_firsts", "_lasts", "pairs")

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """They may overlap; `pairs` are disjoint, do not touch, and are in order."""
        self.pairs: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if self.pairs and first <= self.pairs[-1][1] + 1:
                self.pairs[-1] = self.pairs[-1][0], max(self.pairs[-1][1], last)
            else:
                self.pairs.append((first, last))
        self._firsts = [first for first, _ in self.pairs]
        self._lasts = [last for _, last in self.pairs]

    def __contains__(self, number: int) -> bool:
        position = bisect_right(self._firsts, number) - 1
        return position >= 0 and number <= self._lasts[position]


class AddressSet:
    """The union of blocks of both families, by the size of packed addresses."""

    __slots__ = ("_ranges",)

    def __init__(self, blocks: Iterable[Block]) -> None:
        by_size: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        for block in blocks:
            by_size[block.network.max_prefixlen // 8] += block.ranges
        self._ranges = {size: NumberRanges(ranges) for size, ranges in by_size.items() if ranges}

    def __contains__(self, address: bytes) -> bool:
        ranges = self._ranges.get(len(address))
        return ranges is not None and int.from_bytes(address, "big") in ranges


class NodeSelectorTerm(Struct, frozen=True):
    """All addresses of the nodes with these labels."""

    nodes: LabelSelector


class DomainTerm(Struct, frozen=True):
    """Addresses that a domain name resolves to; `*.` stands for one label or more."""

    name: str


Peer: TypeAlias = PodSelectorTerm | Block | NodeSelectorTerm | DomainTerm


class PortSpan(Struct, frozen=True, order=True):
    """Ports of one protocol, both ends included."""

    protocol: str
    first: int = 0
    last: int = 65535

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


class PortName(Struct, frozen=True, order=True):
    """A port by its name on the destination pod; of any protocol when `protocol` is "" (ClusterNetworkPolicy)."""

    name: str
    protocol: str = ""


Port: TypeAlias = PortSpan | PortName
