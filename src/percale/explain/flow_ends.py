"""Everybody that a flow can have at one end: pods' and nodes' addresses, and samples of the addresses outside.

Outside addresses are split into ranges that no rule distinguishes. `FlowEnds` answers which of them a peer of a rule means, all
at once, as one row of booleans. Called by `reachability.py`; pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import ip_address, summarize_address_range
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.policy.compiled_policy import CompiledRule
from percale.policy.evaluator import Evaluator
from percale.policy.flow_match import peer_matches
from percale.policy.rule_terms import EVERYTHING, Block, Peer, PodSelectorTerm
from percale.policy.verdict import FlowEnd

Row: TypeAlias = npt.NDArray[np.bool_]
"""One truth value an end."""


class Outside(NamedTuple):
    """A range of outside addresses that no rule distinguishes; packed, of one family."""

    first: bytes
    last: bytes
    sample: bytes

    @property
    def size(self) -> int:
        """How many addresses."""
        return int.from_bytes(self.last) - int.from_bytes(self.first) + 1

    def __str__(self) -> str:
        first, last = ip_address(self.first), ip_address(self.last)
        networks = [str(each) for each in summarize_address_range(first, last)]
        return networks[0] if len(networks) == 1 else f"{first}-{last}"


def rules_of(evaluator: Evaluator) -> Iterator[CompiledRule]:
    return (rule for policy in evaluator.policies.values() for rule in policy.all_rules)


def blocks_of(evaluator: Evaluator) -> set[Block]:
    """The address blocks that rules name."""
    return {peer for rule in rules_of(evaluator) for peer in rule.peers or () if isinstance(peer, Block)}


def outside(evaluators: Iterable[Evaluator]) -> list[Outside]:
    """The addresses outside these worlds, of the families that they use, in their order."""
    cuts: dict[int, set[int]] = {}
    taken: set[bytes] = set()
    for evaluator in evaluators:
        taken.update(evaluator.node_index.lease_addresses)
        for end in insiders(evaluator):
            taken.add(end.address)
            cuts.setdefault(len(end.address), {0})
    for evaluator in evaluators:
        for first, last in _named_ranges(evaluator):
            if len(first) in cuts:
                cuts[len(first)] |= {int.from_bytes(first), int.from_bytes(last) + 1}
    return [each for size, firsts in sorted(cuts.items()) for each in _between(sorted(firsts), size, taken)]


def insiders(evaluator: Evaluator) -> Iterator[FlowEnd]:
    """Pods, then nodes, an entry for each address. Pods in their node's network are their node."""
    for pod in evaluator.selector_index.pods:
        if pod is not None:
            for address in pod.addresses:
                yield FlowEnd(address, pod)
    for node, addresses in evaluator.node_index.addresses.items():
        for address in addresses:
            end = evaluator.flow_end(address)
            if end.node == node:
                yield end


def _named_ranges(evaluator: Evaluator) -> Iterator[tuple[bytes, bytes]]:
    for block in blocks_of(evaluator):
        yield from _ends(block)
    for addresses in evaluator.node_index.resolved_names.values():
        yield from ((address, address) for address in addresses)


def _ends(block: Block) -> list[tuple[bytes, bytes]]:
    """The first and last address of the block, and then of each exception."""
    networks = (block.network, *block.excluded)
    return [(each.network_address.packed, each.broadcast_address.packed) for each in networks]


def _between(firsts: list[int], size: int, taken: set[bytes]) -> Iterator[Outside]:
    limit = 1 << 8 * size
    for first, following in zip(firsts, [*firsts[1:], limit], strict=True):
        if first == limit:
            continue
        sample = first
        while sample < following and sample.to_bytes(size) in taken:
            sample += 1
        if sample < following:
            yield Outside(first.to_bytes(size), (following - 1).to_bytes(size), sample.to_bytes(size))


class FlowEnds:
    """Those of one world, and the same ranges outside for every world that is compared with it."""

    def __init__(self, evaluator: Evaluator, outside: Iterable[Outside]) -> None:
        self._evaluator = evaluator
        self.all: list[FlowEnd] = [*insiders(evaluator), *(FlowEnd(each.sample) for each in outside)]
        self._pods = [end.pod for end in self.all if end.pod is not None]
        """They come first."""
        spaces = {pod.namespace: None for pod in self._pods}
        self._namespaces = dict(zip(spaces, range(len(spaces)), strict=True))
        self._home = np.fromiter((self._namespaces[pod.namespace] for pod in self._pods), np.intp, len(self._pods))
        self._sorted = {size: self._by_address(size) for size in (4, 16)}
        self._labelled: dict[tuple[str, str], list[int]] = {}
        self._with_key: dict[str, list[int]] = {}
        for index, pod in enumerate(self._pods):
            for key, value in pod.labels.items():
                self._labelled.setdefault((key, value), []).append(index)
                self._with_key.setdefault(key, []).append(index)
        self.term = cache(self._term)
        self._spaces = cache(self._meant_namespaces)
        self._requirement = cache(self._requirement_row)

    def __len__(self) -> int:
        return len(self.all)

    def peers(self, peers: Iterable[Peer] | None) -> Row:
        """Those whom a rule means."""
        if peers is None:
            return np.ones(len(self), np.bool_)
        row = np.zeros(len(self), np.bool_)
        for peer in peers:
            match peer:
                case PodSelectorTerm():
                    row |= self.term(peer)
                case Block():
                    self._mark(row, peer)
                case _:
                    members, cluster = self._evaluator.selector_index, self._evaluator.node_index
                    row |= np.fromiter(
                        (peer_matches(peer, end, members, cluster) for end in self.all),
                        np.bool_,
                        len(self),
                    )
        return row

    def _term(self, term: PodSelectorTerm) -> Row:
        """The pods that these selectors mean."""
        row = np.zeros(len(self), np.bool_)
        row[: len(self._pods)] = self._in_namespaces(term.namespaces) & self._selected(term.pods)
        return row

    def _in_namespaces(self, namespaces: str | LabelSelector) -> Row:
        if isinstance(namespaces, str):
            row: Row = self._home == self._namespaces.get(namespaces, -1)
            return row
        return self._spaces(namespaces)

    def _meant_namespaces(self, selector: LabelSelector) -> Row:
        labels_of = self._evaluator.selector_index.labels_of
        meant = np.fromiter((selector.matches(labels_of(name)) for name in self._namespaces), np.bool_)
        return meant[self._home]

    def _selected(self, selector: LabelSelector) -> Row:
        row = np.ones(len(self._pods), np.bool_)
        if selector is EVERYTHING:
            return row
        for key, value in selector.matchLabels.items():
            row &= self._row(self._labelled.get((key, value), ()))
        for requirement in selector.matchExpressions:
            row &= self._requirement(requirement)
        return row

    def _requirement_row(self, requirement: LabelSelectorRequirement) -> Row:
        """Answers for In and Exists come from the labels' lists; the two others are their opposites."""
        if requirement.operator in ("In", "NotIn"):
            row = np.zeros(len(self._pods), np.bool_)
            for value in requirement.values:
                row |= self._row(self._labelled.get((requirement.key, value), ()))
        else:
            row = self._row(self._with_key.get(requirement.key, ()))
        return ~row if requirement.operator in ("NotIn", "DoesNotExist") else row

    def _row(self, pods: Iterable[int]) -> Row:
        row = np.zeros(len(self._pods), np.bool_)
        row[list(pods)] = True
        return row

    def _by_address(self, size: int) -> tuple[list[bytes], npt.NDArray[np.intp]]:
        order = sorted(
            (index for index, end in enumerate(self.all) if len(end.address) == size),
            key=lambda index: self.all[index].address,
        )
        return [self.all[index].address for index in order], np.array(order, np.intp)

    def _mark(self, row: Row, block: Block) -> None:
        """True for the block's addresses; what an exception takes out, another peer may have put in."""
        (first, last), *without = _ends(block)
        addresses, order = self._sorted[len(first)]
        begin, end = bisect_left(addresses, first), bisect_right(addresses, last)
        meant = np.ones(end - begin, np.bool_)
        for low, high in without:
            meant[max(0, bisect_left(addresses, low) - begin) : max(0, bisect_right(addresses, high) - begin)] = False
        row[order[begin:end][meant]] = True
