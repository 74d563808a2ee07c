"""All ports of all protocols at once: split at the ports in rules, so that no rule distinguishes two ports of a range.

A set of ports is the bits of one integer, a bit a piece. Used by `reachability.py`, `matrix.py` and `diff.py`; pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias, get_args

from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import FlowProtocol, PortName, PortSpan

PortSet: TypeAlias = int
"""Bits of pieces of one PortSpace."""

_PROTOCOLS: tuple[FlowProtocol, ...] = get_args(FlowProtocol)
_LAST = 65535


class Piece(NamedTuple):
    """Ports that no rule distinguishes; None: the protocol has no ports."""

    protocol: FlowProtocol
    first: int | None
    last: int | None


class PortSpace:
    """The pieces, in the protocols' order and by their ports."""

    def __init__(self, spans: Iterable[PortSpan] = ()) -> None:
        """Cut at both ends of each span."""
        starts: defaultdict[str, set[int]] = defaultdict(set)
        for span in spans:
            starts[span.protocol] |= {span.first, span.last + 1}
        self.pieces: list[Piece] = []
        self._starts: dict[str, list[int]] = {}
        self._base: dict[str, int] = {}
        for protocol in _PROTOCOLS:
            self._base[protocol] = len(self.pieces)
            if protocol == "ICMP":
                self.pieces.append(Piece(protocol, None, None))
                continue
            firsts = [1, *sorted(each for each in starts[protocol] if 1 < each <= _LAST)]
            self._starts[protocol] = firsts
            lasts = [each - 1 for each in firsts[1:]] + [_LAST]
            self.pieces += [Piece(protocol, first, last) for first, last in zip(firsts, lasts, strict=True)]
        self.all: PortSet = (1 << len(self.pieces)) - 1

    def span(self, span: PortSpan) -> PortSet:
        """Ports from one to another; both must be cuts."""
        if span.protocol == "ICMP":
            return 1 << self._base["ICMP"]
        starts = self._starts[span.protocol]
        begin, end = bisect_right(starts, max(1, span.first)) - 1, bisect_right(starts, span.last)
        return (1 << end) - (1 << begin) << self._base[span.protocol]

    def pieces_of(self, ports: PortSet) -> Iterator[tuple[Piece, PortSet]]:
        """In their order, each with its bit."""
        return ((piece, 1 << index) for index, piece in enumerate(self.pieces) if ports >> index & 1)

    def text(self, ports: PortSet) -> str:
        """`TCP 80,443; UDP 53`, `all`, `none`, `all but TCP 25`; a protocol without numbers is all of its ports."""
        if ports == self.all:
            return "all"
        if not ports:
            return "none"
        direct, rest = self._listed(ports), f"all but {self._listed(self.all ^ ports)}"
        return rest if len(rest) < len(direct) else direct

    def _listed(self, ports: PortSet) -> str:
        return "; ".join(
            protocol if ranges == [(1, _LAST)] or protocol == "ICMP" else f"{protocol} {','.join(map(_range, ranges))}"
            for protocol, ranges in self.ranges(ports).items()
        )

    def ranges(self, ports: PortSet) -> Mapping[str, list[tuple[int, int]]]:
        """First and last ports by protocol, neighbours joined; ICMP has an empty list."""
        found: dict[str, list[tuple[int, int]]] = {}
        for piece, _ in self.pieces_of(ports):
            there = found.setdefault(piece.protocol, [])
            if piece.first is None or piece.last is None:
                continue
            if there and there[-1][1] == piece.first - 1:
                there[-1] = (there[-1][0], piece.last)
            else:
                there.append((piece.first, piece.last))
        return found


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def cut(evaluators: Iterable[Evaluator], asked: Iterable[PortSpan] = ()) -> PortSpace:
    """The space in which these worlds' rules, and the ports that a person asks for, are sets of pieces."""
    spans = set(asked)
    for evaluator in evaluators:
        names: set[str] = set()
        for policy in evaluator.policies.values():
            for rule in policy.all_rules:
                for port in rule.ports or ():
                    if isinstance(port, PortName):
                        names.add(port.name)
                    else:
                        spans.add(port)
        spans.update(
            PortSpan(port.protocol, port.number, port.number)
            for pod in evaluator.selector_index.pods
            if pod is not None
            for port in pod.ports
            if port.name in names
        )
    return PortSpace(spans)
