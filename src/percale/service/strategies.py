"""How connections are spread over endpoints: names, annotations, and the slots that a strategy picks from.

`service_ports.py` parses the annotations, `resolver.py` makes the slots. Each slot is a map element, and the kernel selects one:

    random lc    a random slot          rr wrr    the next slot          sh mh    the slot of the client's hash
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from ipaddress import ip_network
from math import gcd
from typing import Literal, NamedTuple, TypeAlias, get_args

from percale.model.addresses import IPNetwork
from percale.service.consistent_hash import consistent_slots
from percale.service.endpoint_selection import Record

StrategyName: TypeAlias = Literal["random", "rr", "wrr", "sh", "mh", "lc"]

STRATEGY_ANNOTATION = "percale.io/strategy"
WEIGHTS_ANNOTATION = "percale.io/weights"

MAX_SLOTS = 1000
"""Maximum for a weighted strategy."""
MAX_WEIGHT = 1000

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)


class Weight(NamedTuple):
    """Endpoints on this node, or in this network, have this weight; neither is given: all."""

    weight: int
    node: str | None = None
    network: IPNetwork | None = None


class Strategy(NamedTuple):
    """Weights are for `wrr` only; the first that matches an endpoint counts, else 1."""

    name: StrategyName
    weights: tuple[Weight, ...] = ()


def parse_strategy(annotations: Mapping[str, str], default: str) -> Strategy:
    """The strategy of a Service's annotations. Raises ValueError."""
    return _strategy(annotations.get(STRATEGY_ANNOTATION, default), annotations.get(WEIGHTS_ANNOTATION, ""))


@lru_cache(maxsize=64)
def _strategy(name_: str, weights: str) -> Strategy:
    name = next((each for each in NAMES if each == name_), None)
    if name is None:
        raise ValueError(f'{STRATEGY_ANNOTATION}: unknown strategy "{name_}" (there are {", ".join(NAMES)})')
    return Strategy(name, tuple(map(_weight, filter(str.strip, weights.split(",")))) if name == "wrr" else ())


_is_number = re.compile(r"[0-9]{1,9}", re.ASCII).fullmatch


def _weight(text: str) -> Weight:
    """`node/n1=3`, `10.0.0.0/24=2`, `10.0.0.7=5`, `*=1`."""
    target, equals, number = text.strip().rpartition("=")
    if not equals or not _is_number(number) or int(number) > MAX_WEIGHT:
        raise ValueError(
            f'{WEIGHTS_ANNOTATION}: "{text.strip()}" is not WHOM=WEIGHT with a weight from 0 to {MAX_WEIGHT}'
        )
    if target == "*":
        return Weight(int(number))
    if target.startswith("node/"):
        return Weight(int(number), node=target.removeprefix("node/"))
    try:
        return Weight(int(number), network=ip_network(target, strict=False))
    except ValueError:
        raise ValueError(
            f'{WEIGHTS_ANNOTATION}: "{target}" is neither node/NAME, an address, a network nor *'
        ) from None


def slots_of(strategy: Strategy, records: Sequence[Record], nodes: Mapping[Record, str | None]) -> tuple[Record, ...]:
    """The endpoints in the order of their slots; one may have several. `nodes` are needed for weights by node only."""
    if strategy.name == "mh":
        return consistent_slots(records)
    if strategy.name == "wrr":
        table = _WeightTable(strategy.weights)
        return interleaved(records, [table.weight(record[:-2], nodes.get(record)) for record in records])
    return tuple(records)


class _WeightTable:
    """Finds an endpoint's weight by its node, by each length of prefix, or among all: there may be thousands of weights."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._weights = weights
        self._all: list[int] = []
        self._nodes: dict[str, int] = {}
        self._networks: dict[int, dict[int, dict[int, int]]] = {32: {}, 128: {}}
        """By the bits of an address, prefix length and prefix: positions of weights."""
        for position, each in enumerate(weights):
            if each.node is not None:
                self._nodes.setdefault(each.node, position)
            elif (network := each.network) is not None:
                host_bits = network.max_prefixlen - network.prefixlen
                prefixes = self._networks[network.max_prefixlen].setdefault(host_bits, {})
                prefixes.setdefault(int(network.network_address) >> host_bits, position)
            elif not self._all:
                self._all.append(position)

    def weight(self, address: bytes, node: str | None) -> int:
        """The first that matches counts, else 1."""
        number, found = int.from_bytes(address), [*self._all]
        if node in self._nodes:
            found.append(self._nodes[node])
        for host_bits, prefixes in self._networks[8 * len(address)].items():
            if (position := prefixes.get(number >> host_bits)) is not None:
                found.append(position)
        return self._weights[min(found)].weight if found else 1


def interleaved(records: Sequence[Record], weights: Sequence[int]) -> tuple[Record, ...]:
    """Smooth weighted round robin: 5, 1, 1 gives a a b a c a a. All weights 0: all are equal.

    So many that each has hardly more than one slot take turns: the other takes the square of their number.
    """
    import numpy as np  # noqa: PLC0415 -- 70 ms, and most have no such service

    shares = _reduced(weights)
    if len(records) > MAX_SLOTS:
        return tuple(_in_turns(records, shares))
    total = sum(shares)
    credit, gains = np.zeros(len(records), np.int64), np.array(shares, np.int64)
    order = []
    for _ in range(total):
        credit += gains
        best = int(credit.argmax())
        credit[best] -= total
        order.append(records[best])
    return tuple(order)


def _in_turns(records: Sequence[Record], shares: Sequence[int]) -> Iterator[Record]:
    left = [(record, share) for record, share in zip(records, shares, strict=True) if share]
    while left:
        yield from (record for record, _ in left)
        left = [(record, share - 1) for record, share in left if share > 1]


def _reduced(weights: Sequence[int]) -> list[int]:
    """In lowest terms, and scaled down to the maximum of slots; a weight above 0 keeps at least one slot."""
    if not any(weights):
        return [1] * len(weights)
    divisor = reduce(gcd, weights)
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    if total <= MAX_SLOTS:
        return shares
    return [max(1, share * MAX_SLOTS // total) if share else 0 for share in shares]


def by_connections(records: Sequence[Record], connections: Mapping[Record, int]) -> tuple[Record, ...]:
    """`lc`: slots by how far each endpoint is below the busiest, so that the connections of an interval level them."""
    counts = [connections.get(record, 0) for record in records]
    busiest = max(counts, default=0)
    steps = max(1, (busiest - min(counts, default=0)) / _LEVELS)
    shares = _reduced([1 + round((busiest - count) / steps) for count in counts])
    return tuple(record for record, share in zip(records, shares, strict=True) for _ in range(share))


_LEVELS = 8
"""The least busy endpoint gets this many slots more than the busiest."""
