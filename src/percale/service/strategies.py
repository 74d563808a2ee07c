"""How connections are spread over endpoints: names, annotations, and the slots that a strategy picks from.

`services` asks what a Service wants, `table` makes the slots. The renderer makes each slot a map element, and picks one:

    random lc    a random slot          rr wrr    the next slot          sh mh    the slot of the client's hash
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from ipaddress import ip_network
from math import gcd
from typing import Literal, NamedTuple, TypeAlias, get_args

from percale.model.addresses import IPNetwork
from percale.service.consistent_hash import consistent_slots
from percale.service.endpoint_selection import Record
from percale.service.node_context import is_in

StrategyName: TypeAlias = Literal["random", "rr", "wrr", "sh", "mh", "lc"]

STRATEGY_ANNOTATION = "percale.io/strategy"
WEIGHTS_ANNOTATION = "percale.io/weights"

MOST_SLOTS = 1000
"""Of a weighted strategy."""
LARGEST_WEIGHT = 1000

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)


class Weight(NamedTuple):
    """Endpoints on this node, or in this network, have this weight; neither is given: all."""

    weight: int
    node: str | None = None
    network: IPNetwork | None = None


class Strategy(NamedTuple):
    """Weights are for `wrr` only; the first that fits an endpoint counts, and 1 when none does."""

    name: StrategyName
    weights: tuple[Weight, ...] = ()


def parse_strategy(annotations: Mapping[str, str], default: str) -> Strategy:
    """What a Service's annotations ask for. Raises ValueError with what is wrong."""
    return _strategy(annotations.get(STRATEGY_ANNOTATION, default), annotations.get(WEIGHTS_ANNOTATION, ""))


@lru_cache(maxsize=64)
def _strategy(word: str, weights: str) -> Strategy:
    name = next((each for each in NAMES if each == word), None)
    if name is None:
        raise ValueError(f'{STRATEGY_ANNOTATION}: unknown strategy "{word}" (there are {", ".join(NAMES)})')
    return Strategy(name, tuple(map(_weight, filter(str.strip, weights.split(",")))) if name == "wrr" else ())


_is_number = re.compile(r"[0-9]{1,9}", re.ASCII).fullmatch


def _weight(text: str) -> Weight:
    """`node/n1=3`, `10.0.0.0/24=2`, `10.0.0.7=5`, `*=1`."""
    whom, equals, number = text.strip().rpartition("=")
    if not equals or not _is_number(number) or int(number) > LARGEST_WEIGHT:
        raise ValueError(
            f'{WEIGHTS_ANNOTATION}: "{text.strip()}" is not WHOM=WEIGHT with a weight from 0 to {LARGEST_WEIGHT}'
        )
    if whom == "*":
        return Weight(int(number))
    if whom.startswith("node/"):
        return Weight(int(number), node=whom.removeprefix("node/"))
    try:
        return Weight(int(number), network=ip_network(whom, strict=False))
    except ValueError:
        raise ValueError(f'{WEIGHTS_ANNOTATION}: "{whom}" is neither node/NAME, an address, a network nor *') from None


def slots_of(strategy: Strategy, records: Sequence[Record], nodes: Mapping[Record, str | None]) -> tuple[Record, ...]:
    """The endpoints in the order of their slots; one may have several. `nodes` are needed for weights by node only."""
    if strategy.name == "mh":
        return consistent_slots(records)
    if strategy.name == "wrr":
        weights = [_weight_of(record, nodes.get(record), strategy.weights) for record in records]
        return interleaved(records, weights)
    return tuple(records)


def _weight_of(record: Record, node: str | None, weights: Sequence[Weight]) -> int:
    for each in weights:
        if each.node is not None and each.node != node:
            continue
        if each.network is None or is_in(record[:-2], (each.network,)):
            return each.weight
    return 1


def interleaved(records: Sequence[Record], weights: Sequence[int]) -> tuple[Record, ...]:
    """Smooth weighted round robin: 5, 1, 1 gives a a b a c a a. All weights 0: all are equal."""
    import numpy as np  # noqa: PLC0415 -- 70 ms, and most have no such service

    shares = _reduced(weights)
    total = sum(shares)
    credit, gains = np.zeros(len(records), np.int64), np.array(shares, np.int64)
    order = []
    for _ in range(total):
        credit += gains
        best = int(credit.argmax())
        credit[best] -= total
        order.append(records[best])
    return tuple(order)


def _reduced(weights: Sequence[int]) -> list[int]:
    """In their lowest terms, and small enough that their sum is a number of slots; whoever has a weight keeps one."""
    if not any(weights):
        return [1] * len(weights)
    divisor = reduce(gcd, weights)
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    if total <= MOST_SLOTS:
        return shares
    return [max(1, share * MOST_SLOTS // total) if share else 0 for share in shares]


def by_connections(records: Sequence[Record], connections: Mapping[Record, int]) -> tuple[Record, ...]:
    """`lc`: slots by how far each endpoint is below the busiest, so that a refresh interval's connections level them out."""
    counts = [connections.get(record, 0) for record in records]
    busiest = max(counts, default=0)
    steps = max(1, (busiest - min(counts, default=0)) / _LEVELS)
    shares = _reduced([1 + round((busiest - count) / steps) for count in counts])
    return tuple(record for record, share in zip(records, shares, strict=True) for _ in range(share))


_LEVELS = 8
"""The least busy endpoint gets this many slots more than the busiest."""
